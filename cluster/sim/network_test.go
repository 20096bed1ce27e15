package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"conclave/cluster"
)

const echo cluster.Method = 1

// wires are the channels of hosts a, b and c, whose handlers echo requests and
// note them.
type wires struct {
	net      *Network
	channels map[string]cluster.Channel

	mu  sync.Mutex
	got map[string][]string // by receiver
}

func (w *wires) open(t *testing.T, name string) {
	t.Helper()
	resolve := func(id raft.ServerID) (string, bool) {
		node, _, ok := strings.Cut(string(id), ".")
		return node + ":1", ok
	}
	_, channel, err := w.net.Host(name, name+":1").Open(cluster.Identity{Node: name, Dir: "d"}, resolve)
	if err != nil {
		t.Fatal(err)
	}
	channel.Handle(func(from cluster.Identity, _ cluster.Method, req []byte, reply func([]byte, error)) {
		w.mu.Lock()
		w.got[name] = append(w.got[name], string(req))
		w.mu.Unlock()
		if string(req) == "refuse" {
			reply(nil, errors.New("refused"))
			return
		}
		reply(append([]byte(from.Node+" said "), req...), nil)
	})
	w.channels[name] = channel
}

func (w *wires) received(name string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.got[name])
}

// wired runs a test on three hosts in a bubble.
func wired(t *testing.T, cond Conditions, f func(t *testing.T, w *wires)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &wires{net: NewNetwork(rand.New(rand.NewPCG(1, 1)), cond), channels: map[string]cluster.Channel{}, got: map[string][]string{}}
		for _, name := range []string{"a", "b", "c"} {
			w.open(t, name)
		}
		f(t, w)
		w.net.Heal()
		w.net.Close()
	})
}

// ask sends a request and waits for what comes of it.
func (w *wires) ask(ctx context.Context, from, to, req string) (answer string, err error) {
	done := make(chan struct{})
	w.channels[from].Send(ctx, raft.ServerID(to+".d"), echo, []byte(req), func(a []byte, e error) {
		answer, err = string(a), e
		close(done)
	})
	<-done
	return answer, err
}

func TestChannel_Answers(t *testing.T) {
	wired(t, LAN, func(t *testing.T, w *wires) {
		if answer, err := w.ask(t.Context(), "a", "b", "hello"); err != nil || answer != "a said hello" {
			t.Errorf("got %q, %v", answer, err)
		}
		_, err := w.ask(t.Context(), "a", "b", "refuse")
		var remote cluster.RemoteError
		if !errors.As(err, &remote) || string(remote) != "refused" {
			t.Errorf("a refusal arrived as %v", err)
		}
		who, answer, err := w.channels["a"].Dial(t.Context(), "c:1", echo, []byte("hello"))
		if err != nil || who.Node != "c" || string(answer) != "a said hello" {
			t.Errorf("dialled %v: %q, %v", who, answer, err)
		}
	})
}

// TestChannel_Order: requests arrive in the order of Send, on a network that
// delays each by its own time, and before the link is cut as well as after.
func TestChannel_Order(t *testing.T) {
	wired(t, Conditions{Delay: time.Millisecond, Jitter: 20 * time.Millisecond, Spike: 0.1}, func(t *testing.T, w *wires) {
		var want []string
		var answered sync.WaitGroup
		for i := range 500 {
			want = append(want, fmt.Sprint(i))
			answered.Add(1)
			w.channels["a"].Send(t.Context(), "b.d", echo, []byte(fmt.Sprint(i)), func([]byte, error) { answered.Done() })
			if i == 250 {
				w.net.Cut("a", "b")
			}
			if i%50 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		w.net.Heal()
		answered.Wait()
		if got := w.received("b"); !slices.Equal(got, want) {
			t.Errorf("arrived as %v", got)
		}
	})
}

// TestChannel_NotSent: what fails with ErrNotSent never arrives.
func TestChannel_NotSent(t *testing.T) {
	for name, spoil := range map[string]func(w *wires){
		"nobody listens":      func(w *wires) { w.net.Kill("b") },
		"the link is cut":     func(w *wires) { w.net.Cut("a", "b") },
		"no answer gets home": func(w *wires) { w.net.Cut("b", "a") },
		"another answers":     func(w *wires) { w.net.Swap("b", "c") },
		"the channel closed":  func(w *wires) { w.channels["a"].Close() },
	} {
		t.Run(name, func(t *testing.T) {
			wired(t, LAN, func(t *testing.T, w *wires) {
				spoil(w)
				if _, err := w.ask(t.Context(), "a", "b", "hello"); !errors.Is(err, cluster.ErrNotSent) {
					t.Errorf("got %v, want ErrNotSent", err)
				}
				w.net.Heal()
				time.Sleep(time.Minute)
				if got := append(w.received("b"), w.received("c")...); len(got) > 0 {
					t.Errorf("arrived: %v", got)
				}
			})
		})
	}
}

// TestChannel_Cut: a request on its way when the link is cut waits for it, and
// fails, without saying that it was not sent, when ctx ends or the connection
// breaks.
func TestChannel_Cut(t *testing.T) {
	wired(t, LAN, func(t *testing.T, w *wires) {
		w.ask(t.Context(), "a", "b", "first")
		w.net.Cut("a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.ask(ctx, "a", "b", "second"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, cluster.ErrNotSent) {
			t.Errorf("got %v, want the deadline", err)
		}
		if _, err := w.ask(t.Context(), "a", "b", "third"); err == nil || errors.Is(err, cluster.ErrNotSent) {
			t.Errorf("got %v, want a broken connection", err)
		}
		w.net.Heal()
		if answer, err := w.ask(t.Context(), "a", "b", "fourth"); err != nil || answer != "a said fourth" {
			t.Errorf("after the cut: %q, %v", answer, err)
		}
	})
}

// TestChannel_Death: when a process dies, those who wait for it learn at once.
func TestChannel_Death(t *testing.T) {
	wired(t, LAN, func(t *testing.T, w *wires) {
		w.ask(t.Context(), "a", "b", "first")
		w.net.Pause("b") // so that the request stays unanswered
		start := time.Now()
		go func() {
			time.Sleep(time.Second)
			w.net.Kill("b")
		}()
		_, err := w.ask(t.Context(), "a", "b", "second")
		if err == nil || errors.Is(err, cluster.ErrNotSent) || time.Since(start) > 1100*time.Millisecond {
			t.Errorf("got %v after %v, want a reset after a second", err, time.Since(start))
		}
		w.net.Resume("b")
		w.open(t, "b")
		if answer, err := w.ask(t.Context(), "a", "b", "third"); err != nil || answer != "a said third" {
			t.Errorf("after the restart: %q, %v", answer, err)
		}
	})
}

// TestChannel_Pause: a paused process gets its messages when it wakes, in order.
func TestChannel_Pause(t *testing.T) {
	wired(t, LAN, func(t *testing.T, w *wires) {
		w.ask(t.Context(), "a", "b", "first")
		w.net.Pause("b")
		time.AfterFunc(time.Second, func() { w.net.Resume("b") })
		start := time.Now()
		if _, err := w.ask(t.Context(), "a", "b", "second"); err != nil || time.Since(start) < time.Second {
			t.Errorf("answered by a paused process: %v after %v", err, time.Since(start))
		}
	})
}

// TestTransport_Faults: what raft's half does on each fault.
func TestTransport_Faults(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(n *Network)
		want  error // nil: an answer
	}{
		{"all is well", func(*Network) {}, nil},
		{"the process is dead", func(n *Network) { n.Kill("b") }, errRefused},
		{"requests are cut off", func(n *Network) { n.Cut("a", "b") }, errTimeout},
		{"answers are cut off", func(n *Network) { n.Cut("b", "a") }, errTimeout},
		{"the process is paused", func(n *Network) { n.Pause("b") }, errTimeout},
		{"every message is lost", func(n *Network) { n.SetConditions(Conditions{Loss: 1}) }, errors.ErrUnsupported},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := NewNetwork(rand.New(rand.NewPCG(1, 1)), LAN)
				resolve := func(raft.ServerID) (string, bool) { return "b:1", true }
				from, _, _ := net.Host("a", "a:1").Open(cluster.Identity{Node: "a", Dir: "d"}, resolve)
				to, _, _ := net.Host("b", "b:1").Open(cluster.Identity{Node: "b", Dir: "d"}, resolve)
				done := make(chan struct{})
				go func() {
					for {
						select {
						case rpc := <-to.Consumer():
							rpc.Respond(&raft.RequestVoteResponse{Term: 7, Granted: true}, nil)
						case <-done:
							return
						}
					}
				}()
				test.spoil(net)
				var resp raft.RequestVoteResponse
				err := from.RequestVote("b.d", "", &raft.RequestVoteRequest{Term: 7}, &resp)
				switch {
				case test.want == nil && (err != nil || resp.Term != 7):
					t.Errorf("got %+v, %v", resp, err)
				case test.want == errors.ErrUnsupported && err == nil: // lost, or reset
					t.Error("nothing was lost")
				case test.want != nil && test.want != errors.ErrUnsupported && !errors.Is(err, test.want):
					t.Errorf("got %v, want %v", err, test.want)
				}
				if err := from.RequestVote("b.other", "", &raft.RequestVoteRequest{}, &resp); err == nil {
					t.Error("a server that was made anew answered to its old id")
				}
				close(done)
				net.Heal()
				net.Resume("b")
				net.Close()
			})
		})
	}
}
