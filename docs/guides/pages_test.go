package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// fenced are the blocks of code of a page, with their languages.
var fenced = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// page reads a guide's page, and the blocks in one language.
func page(t *testing.T, name, language string) (text string, blocks []string) {
	t.Helper()
	data, err := os.ReadFile(name + ".md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range fenced.FindAllStringSubmatch(string(data), -1) {
		if m[1] == language {
			blocks = append(blocks, m[2])
		}
	}
	return string(data), blocks
}

// TestPages_quote_the_code: what a page shows is what runs, line by line.
func TestPages_quote_the_code(t *testing.T) {
	index, _ := page(t, "README", "")
	pages, err := filepath.Glob("*.md")
	if err != nil || len(pages) != len(plays)+1 {
		t.Errorf("%d pages for %d guides, %v", len(pages), len(plays), err)
	}
	for name := range plays {
		t.Run(name, func(t *testing.T) {
			text, blocks := page(t, name, "go")
			file, err := os.ReadFile(name + ".go")
			if err != nil {
				t.Fatal(err)
			}
			for _, block := range blocks {
				if !strings.Contains("\n"+string(file), "\n"+block) {
					t.Errorf("%s.go does not have what the page shows:\n%s", name, block)
				}
			}
			if len(blocks) == 0 || !strings.Contains(index, "("+name+".md)") || !strings.Contains(text, "`go run ./docs/guides "+name+"`") {
				t.Error("the page shows no code, does not say how to run it, or is not in the index")
			}
			for _, section := range []string{"The update that is not lost", "On reconnect", "Limits", "Who may write"} {
				if !strings.Contains(text, "\n## "+section+"\n") {
					t.Errorf("the page has no section %q", section)
				}
			}
		})
	}
}

// TestPages_frames_are_taken: every request that a page shows is sent, by one peer,
// in the order of the page, and does what it says.
func TestPages_frames_are_taken(t *testing.T) {
	th := newTheatre(t)
	for name := range plays {
		t.Run(name, func(t *testing.T) {
			_, blocks := page(t, name, "json")
			if len(blocks) != 1 {
				t.Fatalf("%d blocks of frames", len(blocks))
			}
			c := &speaker{t: t}
			url := "ws" + strings.TrimPrefix(th.nodes[0], "http") + "/v1/rooms/frames-" + name + "/socket"
			ws, _, err := websocket.DefaultDialer.DialContext(patience(t), url, http.Header{})
			if err != nil {
				t.Fatal(err)
			}
			defer ws.Close()
			c.ws = ws
			peer := c.ask(`{"id":1,"do":"hello","v":1}`).Peer
			var rev, fence uint64
			dec := json.NewDecoder(strings.NewReader(strings.NewReplacer("REV", `"REV"`, "FENCE", `"FENCE"`, "PEER", peer).Replace(blocks[0])))
			for dec.More() {
				var frame json.RawMessage
				if err := dec.Decode(&frame); err != nil {
					t.Fatal(err)
				}
				ok := c.ask(strings.NewReplacer(`"REV"`, strconv.FormatUint(rev, 10), `"FENCE"`, strconv.FormatUint(fence, 10)).Replace(string(frame)))
				if ok.Applied != nil && !*ok.Applied {
					t.Errorf("the conditions of %s did not hold", frame)
				}
				if ok.Version > 0 || ok.Applied != nil {
					rev = ok.Rev
				}
				if ok.Fence > 0 {
					fence = ok.Fence
				}
			}
		})
	}
}

// speaker speaks frames as they stand in a page.
type speaker struct {
	t  *testing.T
	ws *websocket.Conn
}

// answer is what the pages' requests are answered with.
type answer struct {
	Peer                string
	Rev, Version, Fence uint64
	Applied             *bool
}

// ask sends a request and returns its answer, which must not be an error.
func (c *speaker) ask(frame string) (ok answer) {
	c.t.Helper()
	var request struct{ ID uint64 }
	if err := json.Unmarshal([]byte(frame), &request); err != nil {
		c.t.Fatal(err)
	}
	if err := c.ws.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		c.t.Fatal(err)
	}
	for {
		if err := c.ws.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			c.t.Fatal(err)
		}
		var got struct {
			ID    uint64
			OK    *answer
			Error json.RawMessage
		}
		if err := c.ws.ReadJSON(&got); err != nil {
			c.t.Fatal(err)
		}
		switch {
		case got.ID != request.ID:
		case got.Error != nil:
			c.t.Fatalf("%s is answered with %s", frame, got.Error)
		case got.OK != nil:
			return *got.OK
		}
	}
}
