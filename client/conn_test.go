package client

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// TestConn_FramesArriveWhole: frames of every kind of length, one by one and many
// together, are to another implementation what was sent.
func TestConn_FramesArriveWhole(t *testing.T) {
	lengths := []int{0, 1, 3, 4, 7, 8, 9, 125, 126, 127, 1000, 65_535, 65_536, 65_537, 200_000}
	got := make(chan []byte, len(lengths))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(got)
		ws, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		for {
			kind, data, err := ws.ReadMessage()
			if err != nil {
				if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
					t.Error(err)
				}
				return
			}
			if kind != websocket.TextMessage {
				t.Errorf("a message of kind %d", kind)
			}
			got <- data
		}
	}))
	defer server.Close()
	ws, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(server.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(t.Context(), ws)
	defer c.close()
	payload := func(n int) []byte { return bytes.Repeat([]byte("0123456789abc"), n/13+1)[:n] }
	for _, n := range lengths {
		c.send(payload(n))
	}
	c.put(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
	c.send([]byte("after the end"))
	for _, n := range lengths {
		if data, ok := <-got; !ok || !bytes.Equal(data, payload(n)) {
			t.Fatalf("of %d bytes %d came, or others", n, len(data))
		}
	}
	if data, more := <-got; more {
		t.Errorf("after the close frame came %q", data)
	}
}
