package sim

import (
	"fmt"
	"reflect"
)

// checkWatches (G7, G8): a snapshot shows the state as of its revision, and the
// frames after it are those of its session, all of them, each once, in order.
func (h *History) checkWatches(l *Log) (errs []error) {
	for _, w := range h.Watches {
		errs = append(errs, checkWatch(l, w)...)
	}
	return errs
}

func checkWatch(l *Log, w *Watch) (errs []error) {
	complain := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("watcher %s of %s: "+format, append([]any{w.Name, w.Room}, args...)...))
	}
	var session string
	at := uint64(0) // everything up to here was seen, or stood in the snapshot
	for _, item := range w.Items {
		if item.Frame == nil {
			if item.Rev < at {
				complain("a snapshot of rev %d after rev %d", item.Rev, at)
			}
			session, at = item.Session, item.Rev
			for _, problem := range checkSnapshot(l, w.Room, item) {
				complain("%s", problem)
			}
			continue
		}
		due := l.between(session, at, item.Rev)
		switch {
		case item.Rev <= at:
			complain("rev %d after rev %d", item.Rev, at)
		case len(due) != 1:
			complain("rev %d after rev %d, though session %s has %d frames there", item.Rev, at, session, len(due))
		case !reflect.DeepEqual(due[0].Frame, item.Frame):
			complain("rev %d differs:\n%swant\n%s", item.Rev, describe(item.Frame), describe(due[0].Frame))
		}
		at = item.Rev
	}
	return errs
}

// checkSnapshot compares all keys ever seen in the room.
func checkSnapshot(l *Log, room string, item WatchItem) (problems []string) {
	if want := l.session(room, item.Rev); want != item.Session {
		problems = append(problems, fmt.Sprintf("the snapshot of rev %d is of session %q, not %q", item.Rev, item.Session, want))
	}
	present := 0
	for at := range l.keys {
		if at.room != room {
			continue
		}
		want := l.At(room, at.key, item.Rev)
		if want != nil {
			present++
		}
		if got := item.Entries[at.key]; !same(got, want) {
			problems = append(problems, fmt.Sprintf("the snapshot of rev %d has %s: %+v, want %+v", item.Rev, at.key, got, want))
		}
	}
	if len(item.Entries) != present {
		problems = append(problems, fmt.Sprintf("the snapshot of rev %d has %d entries, want %d", item.Rev, len(item.Entries), present))
	}
	return problems
}
