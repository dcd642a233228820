package network

import (
	"sync"
	"testing"
	"time"
)

// BenchmarkSlot tells what a fresh namespace costs against one that is used
// again. Run with /sys/kernel/rcu_expedited both ways.
func BenchmarkSlot(b *testing.B) {
	w := newWorld(b, Config{})
	b.Run("create and destroy", func(b *testing.B) {
		var created, destroyed time.Duration
		for range b.N {
			start := time.Now()
			if _, err := w.Create(b.Context(), 1); err != nil {
				b.Fatal(err)
			}
			made := time.Now()
			if err := w.Destroy(b.Context(), 1); err != nil {
				b.Fatal(err)
			}
			created, destroyed = created+made.Sub(start), destroyed+time.Since(made)
		}
		b.ReportMetric(float64(created.Microseconds())/1000/float64(b.N), "ms/create")
		b.ReportMetric(float64(destroyed.Microseconds())/1000/float64(b.N), "ms/destroy")
	})
	if _, err := w.Create(b.Context(), 1); err != nil {
		b.Fatal(err)
	}
	b.Run("recycle", func(b *testing.B) {
		for range b.N {
			if err := w.Recycle(b.Context(), 1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("destroy 50 at once", func(b *testing.B) {
		for range b.N {
			for i := range 50 {
				if _, err := w.Create(b.Context(), 2+i); err != nil {
					b.Fatal(err)
				}
			}
			b.StartTimer()
			var group sync.WaitGroup
			for i := range 50 {
				group.Go(func() {
					if err := w.Destroy(b.Context(), 2+i); err != nil {
						b.Error(err)
					}
				})
			}
			group.Wait()
			b.StopTimer()
		}
	})
	b.Run("packet socket", func(b *testing.B) {
		ns, err := w.Open(1)
		if err != nil {
			b.Fatal(err)
		}
		var opened time.Duration
		for range b.N {
			start := time.Now()
			file, err := ns.PacketSocket()
			if err != nil {
				b.Fatal(err)
			}
			opened += time.Since(start)
			_ = file.Close()
		}
		b.ReportMetric(float64(opened.Microseconds())/1000/float64(b.N), "ms/open")
	})
}
