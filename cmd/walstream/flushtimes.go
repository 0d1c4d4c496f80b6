package main

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// flushTimes is how long each fdatasync of received WAL took: since the start
// for /metrics, and lately for people.
type flushTimes struct {
	prometheus.Histogram

	mu     sync.Mutex
	before []*dto.Bucket // a window ago
	last   []*dto.Bucket // when the present window began
	turned time.Time
}

const flushHelp = "How long each fdatasync of received WAL took; a synchronous commit waits for one."

// flushWindow is how much is looked back on, at least; at most twice that.
const flushWindow = time.Minute

func newFlushTimes() *flushTimes {
	return &flushTimes{Histogram: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "walstream_flush_seconds", Help: flushHelp,
		Buckets: prometheus.ExponentialBuckets(50e-6, 2, 22), // 50 µs to 105 s
	})}
}

// observe costs no memory.
func (f *flushTimes) observe(d time.Duration) { f.Observe(d.Seconds()) }

func (f *flushTimes) buckets() []*dto.Bucket {
	var m dto.Metric
	if err := f.Write(&m); err != nil {
		return nil
	}
	inf := m.GetHistogram().GetSampleCount()
	return append(m.GetHistogram().GetBucket(), &dto.Bucket{CumulativeCount: &inf})
}

// turn begins a new window if it is time to.
func (f *flushTimes) turn(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.turned) >= flushWindow {
		f.before, f.last, f.turned = f.last, f.buckets(), now
	}
}

// p99 is what 99 of 100 flushes lately took at most, in seconds, by
// interpolation in a bucket; nil when there was none.
func (f *flushTimes) p99() *float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.buckets()
	count := func(i int) float64 {
		n := now[i].GetCumulativeCount()
		if f.before != nil {
			n -= f.before[i].GetCumulativeCount()
		}
		return float64(n)
	}
	if len(now) == 0 || count(len(now)-1) == 0 {
		return nil
	}
	rank := 0.99 * count(len(now)-1)
	low, below := 0.0, 0.0
	for i := range now[:len(now)-1] {
		high, n := now[i].GetUpperBound(), count(i)
		if n >= rank {
			low += (high - low) * (rank - below) / (n - below)
			break
		}
		low, below = high, n
	}
	return &low
}
