# What a developer runs, and what CI runs: the same targets. Tools are run by
# `go run module@version`, so that nothing has to be installed beforehand.

GOFUMPT     = mvdan.cc/gofumpt@v0.12.0
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

# The race detector needs a C compiler. Without one the suite still runs, and says so.
CC_FOUND := $(shell command -v gcc || command -v clang || command -v cc)
RACE     := $(if $(CC_FOUND),-race)

SEEDS    ?= 1000
ROUNDS   ?= 20
FUZZTIME ?= 30s
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   = -X main.version=$(VERSION)
TESTFLAGS ?=

.PHONY: build test sim faults bench bench-peers fuzz lint dev clean

build: ## bin/conclave, a static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/conclave ./cmd/conclave

test: ## the whole suite, end-to-end tests over real processes included
	@test -n "$(RACE)" || echo "no C compiler found: the suite runs without the race detector" >&2
	go vet ./...
	$(if $(RACE),CGO_ENABLED=1) go test $(RACE) -timeout 14m $(TESTFLAGS) ./...
	$(if $(RACE),go test -timeout 5m $(TESTFLAGS) -run 'MemberThatMoves|SwappedAddresses' ./cluster ./cluster/sim)

sim: ## the simulation with many seeds: make sim SEEDS=10000
	SEEDS=$(SEEDS) GOGC=400 go test -count=1 -timeout 0 -v -run '^TestSim$$' $(TESTFLAGS) ./cluster/sim

faults: ## faults of real processes, disks and networks (some need root): make faults ROUNDS=100 SEED=7 LOG_STORE=wal
	ROUNDS=$(ROUNDS) SEED=$(SEED) LOG_STORE=$(LOG_STORE) go test -count=1 -timeout 0 -v -run 'mixed_load|[fF]aults_' $(TESTFLAGS) ./cmd/conclave

bench: ## every benchmark of the packages
	go test -run '^$$' -bench . -benchmem $(TESTFLAGS) ./...

bench-peers: ## side by side with etcd and NATS, into docs/benchmarks.md
	cd bench && go run . -page ../docs/benchmarks.md -plot ../docs/benchmarks.svg $(BENCHFLAGS)

fuzz: ## every fuzz target for FUZZTIME each
	@for pkg in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "== $$pkg $$target"; \
	    go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

lint: ## formatting, vet, staticcheck, known vulnerabilities
	@out=$$(go run $(GOFUMPT) -l .) && test -z "$$out" || { echo "not gofumpt-ed:"; echo "$$out"; exit 1; }
	go vet ./...
	go vet -tags broken ./fsm ./cluster/...
	go run $(STATICCHECK) ./...
	@out=$$(go run $(GOVULNCHECK) ./... 2>&1) && echo "$$out" || { \
	  echo "$$out"; \
	  ! echo "$$out" | grep -q '^Vulnerability #' && \
	  echo "govulncheck could not run (it needs vuln.go.dev): vulnerabilities were NOT checked" >&2; }

dev: ## three nodes on loopback
	go run ./cmd/conclave dev

clean: ## what the targets above have built
	rm -rf bin
