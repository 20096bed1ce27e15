package lock

import (
	"fmt"
	"testing"
)

// BenchmarkLock_AcquireRelease is a lock that nobody else wants. One iteration is one
// acquire and one release.
func BenchmarkLock_AcquireRelease(b *testing.B) {
	owner := Owner{Peer: "p1"}
	b.ReportAllocs()
	for rev := uint64(1); b.Loop(); rev++ {
		l, got := (*Lock)(nil).Acquire(Waiter{Owner: owner, TTL: 15_000}, false, at(rev))
		if got.Outcome != Granted {
			b.Fatal(got)
		}
		if l, _ = l.End(Of(owner, got.Fence)); l != nil {
			b.Fatal("the lock is still there")
		}
	}
}

// BenchmarkLock_HandOver gives a lock to the next of a line, whose former holder goes
// to its end. One iteration is one hand-over.
func BenchmarkLock_HandOver(b *testing.B) {
	for _, waiting := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			var l *Lock
			rev := uint64(0)
			queue := func(o Owner) {
				rev++
				l, _ = l.Acquire(Waiter{Owner: o, TTL: 15_000, Until: 1 << 62}, true, at(rev))
			}
			for i := range waiting + 1 {
				queue(Owner{Peer: fmt.Sprint("p", i)})
			}
			b.ReportAllocs()
			for b.Loop() {
				held := l.Newest()
				next, _ := l.End(Of(held.Owner, held.Fence))
				rev++
				l, _, _ = next.HandOver(alive, at(rev))
				queue(held.Owner)
			}
			if l.Waiting() != waiting {
				b.Fatalf("%d wait, want %d", l.Waiting(), waiting)
			}
		})
	}
}
