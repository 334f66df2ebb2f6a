package ledger

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
)

// BenchmarkAdmission is Reserve and Commit on a real disk, fsync included, with
// so many members there already: one at a time, and 64 together.
func BenchmarkAdmission(b *testing.B) {
	for _, members := range []int{10, 1000, 10_000} {
		dir := openDir(b, filepath.Join(b.TempDir(), "state"))
		l := mustOpen(b, In(dir), "10.0.0.0/16", start)
		fillLedger(b, l, members)
		b.Run(fmt.Sprintf("members=%d/together=1", members), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				mustAdmit(b, l, i%members, "web", start)
			}
		})
		b.Run(fmt.Sprintf("members=%d/together=64", members), func(b *testing.B) {
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			var next atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mustAdmit(b, l, int(next.Add(1))%members, "web", start)
				}
			})
		})
	}
}

func fillLedger(b *testing.B, l *Ledger, members int) {
	b.Helper()
	var next atomic.Int64
	done := make(chan error)
	for range 64 {
		go func() {
			var err error
			for n := int(next.Add(1)) - 1; n < members && err == nil; n = int(next.Add(1)) - 1 {
				_, err = admit(l, n, "web", start)
			}
			done <- err
		}()
	}
	for range 64 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}
