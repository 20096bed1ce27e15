package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"conclave/fsm"
)

// metrics are the node's figures for Prometheus, in a registry of their own, so
// that two servers in one process do not collide. No label takes a client's word:
// their number is bounded by the routes and the codes.
type metrics struct {
	registry                    *prometheus.Registry
	requests                    *prometheus.CounterVec   // by route and status
	seconds                     *prometheus.HistogramVec // by route; a long poll counts as long as it waited
	sockets                     prometheus.Gauge         // connections: WebSocket and events
	watchers                    prometheus.Gauge
	frames                      prometheus.Counter     // sent to watchers
	resets                      *prometheus.CounterVec // by reason
	ephemeral, superseded, lost prometheus.Counter     // ephemeral messages: sent to watchers, and what slow ones did not get
	refused                     *prometheus.CounterVec // by what was counted
	batches                     *prometheus.CounterVec // by what the log made of them; repeated ones are re-sent after a change of leader
	commands                    prometheus.Counter     // with batches: how many commands share one
}

func newMetrics(node Store, waits *grants) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "conclave_http_requests_total", Help: "HTTP requests answered, by route and status.",
		}, []string{"method", "route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "conclave_http_request_seconds", Help: "Time to answer an HTTP request, by route; sockets and events not counted.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 5},
		}, []string{"method", "route"}),
		sockets:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "conclave_sockets", Help: "Open connections: WebSocket and events."}),
		watchers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "conclave_watchers", Help: "Connections that watch a room."}),
		frames:   prometheus.NewCounter(prometheus.CounterOpts{Name: "conclave_watch_frames_total", Help: "Frames of events sent to watchers."}),
		resets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "conclave_watch_resets_total", Help: "Watchers told to forget what they have, by reason.",
		}, []string{"reason"}),
		ephemeral: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "conclave_ephemeral_sent_total", Help: "Ephemeral messages sent to watchers.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "conclave_rate_limited_total", Help: "Requests refused as too fast, by whose rate it was: peer, token, hello (of a connection).",
		}, []string{"kind"}),
		batches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "conclave_batches_total", Help: "Batches of commands seen in the log, by what became of them.",
		}, []string{"status"}),
		commands: prometheus.NewCounter(prometheus.CounterOpts{Name: "conclave_commands_total", Help: "Commands applied, of all nodes."}),
	}
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "conclave_ephemeral_dropped_total",
		Help: "Ephemeral messages that a slow watcher did not get: a newer one took the place, or there was none.",
	}, []string{"reason"})
	m.superseded, m.lost = dropped.WithLabelValues("superseded"), dropped.WithLabelValues("full")
	m.registry.MustRegister(m.ephemeral, dropped, m.requests, m.seconds, m.sockets, m.watchers, m.frames, m.resets, m.refused, m.batches, m.commands,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "conclave_lock_waits", Help: "Acquires of this node's clients on their way or in line."},
			func() float64 { return float64(waits.size()) }),
		statusCollector{node: node})
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// counted counts a request under its route's pattern, never its path.
func (s *Server) counted(c *gin.Context) {
	start := time.Now()
	c.Next()
	route := c.FullPath()
	if route == "" {
		route = "none"
	}
	method := c.Request.Method
	if !knownMethod(method) {
		method = "other"
	}
	s.metrics.requests.WithLabelValues(method, route, strconv.Itoa(c.Writer.Status())).Inc()
	if route != routeSocket && route != routeEvents {
		s.metrics.seconds.WithLabelValues(method, route).Observe(time.Since(start).Seconds())
	}
}

// knownMethod bounds the label: a method is any word that a client sends.
func knownMethod(m string) bool {
	switch m {
	case "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS":
		return true
	}
	return false
}

// observe counts what the log brought. It runs on the goroutine that applies it.
func (m *metrics) observe(p *fsm.Published) {
	for _, b := range p.Batches {
		status := "stale"
		switch b.Status {
		case fsm.BatchApplied:
			status = "applied"
			m.commands.Add(float64(len(b.Results)))
		case fsm.BatchRepeated:
			status = "repeated"
		case fsm.BatchGap:
			status = "gap"
		}
		m.batches.WithLabelValues(status).Inc()
	}
}

// statusCollector reads the cluster's state when somebody asks. Nothing is counted
// on the way of a command for it.
type statusCollector struct{ node Store }

var (
	descTerm    = prometheus.NewDesc("conclave_raft_term", "The raft term.", nil, nil)
	descApplied = prometheus.NewDesc("conclave_raft_applied_index", "The last log entry applied and published by this node.", nil, nil)
	descCommit  = prometheus.NewDesc("conclave_raft_commit_index", "The last log entry that this node knows to be committed.", nil, nil)
	descConfig  = prometheus.NewDesc("conclave_raft_config_index", "The log index of the membership in force.", nil, nil)
	descLeader  = prometheus.NewDesc("conclave_raft_leader", "1 on the leader, 0 elsewhere.", nil, nil)
	descHas     = prometheus.NewDesc("conclave_raft_has_leader", "1 when this node knows a leader.", nil, nil)
	descRev     = prometheus.NewDesc("conclave_rev", "The revision of the last change published by this node.", nil, nil)
	descDisk    = prometheus.NewDesc("conclave_disk_write_seconds", "A recent write to the log, smoothed.", nil, nil)
	descReady   = prometheus.NewDesc("conclave_ready", "1 when this node serves.", nil, nil)
	descAgreed  = prometheus.NewDesc("conclave_state_agreed_index", "The newest log entry as of which this node's state was compared and is that of the majority.", nil, nil)
	descDiffers = prometheus.NewDesc("conclave_state_divergence_total", "How often this node has seen replicas whose states differ.", nil, nil)
	descRelay   = prometheus.NewDesc("conclave_ephemeral_relay_dropped_total",
		"Ephemeral messages that a member, slow or away, did not get from this node: a newer one took the place, or there was none.", []string{"reason"}, nil)
	descMembers = prometheus.NewDesc("conclave_members", "Members of the cluster.", []string{"voter"}, nil)
)

// Describe implements prometheus.Collector.
func (s statusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descTerm, descApplied, descCommit, descConfig, descLeader, descHas, descRev, descDisk, descReady, descAgreed, descDiffers, descMembers, descRelay,
	} {
		ch <- d
	}
}

// statusTimeout bounds how long a scrape may wait for the cluster.
const statusTimeout = time.Second

// Collect implements prometheus.Collector.
func (s statusCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	st := s.node.Status(ctx)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descTerm, float64(st.Term))
	gauge(descApplied, float64(st.Applied))
	gauge(descCommit, float64(st.Commit))
	gauge(descConfig, float64(st.ConfigIndex))
	gauge(descLeader, truth(st.Leader == st.ID && st.ID != ""))
	gauge(descHas, truth(st.Leader != ""))
	gauge(descRev, float64(st.Rev))
	gauge(descAgreed, float64(st.Agreed))
	ch <- prometheus.MustNewConstMetric(descDiffers, prometheus.CounterValue, float64(st.Differing))
	gauge(descReady, truth(len(s.node.Ready()) == 0))
	superseded, lost := s.node.Relayed()
	ch <- prometheus.MustNewConstMetric(descRelay, prometheus.CounterValue, float64(superseded), "superseded")
	ch <- prometheus.MustNewConstMetric(descRelay, prometheus.CounterValue, float64(lost), "full")
	// Other members' disks are their own scrapes' business: one node, one figure.
	voters := 0
	for _, m := range st.Members {
		if m.Voter {
			voters++
		}
		if m.ID == st.ID {
			gauge(descDisk, m.Disk.Seconds())
		}
	}
	gauge(descMembers, float64(voters), "true")
	gauge(descMembers, float64(len(st.Members)-voters), "false")
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

var _ prometheus.Collector = statusCollector{}
