package main

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// flushTimes is how long each fdatasync of received WAL took: since the start
// for /metrics, and lately for people.
type flushTimes struct {
	prometheus.Histogram
	lately prometheus.Summary // in the last minute or two
}

const flushHelp = "How long each fdatasync of received WAL took; a synchronous commit waits for one."

func newFlushTimes() *flushTimes {
	return &flushTimes{
		Histogram: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "walstream_flush_seconds", Help: flushHelp,
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 22), // 50 µs to 105 s
		}),
		lately: prometheus.NewSummary(prometheus.SummaryOpts{
			Objectives: map[float64]float64{0.99: 0.001}, MaxAge: 2 * time.Minute, AgeBuckets: 2,
		}),
	}
}

func (f *flushTimes) observe(d time.Duration) {
	f.Observe(d.Seconds())
	f.lately.Observe(d.Seconds())
}

// p99 is what 99 of 100 flushes lately took at most, in seconds; nil when there
// was none.
func (f *flushTimes) p99() *float64 {
	var m dto.Metric
	if err := f.lately.Write(&m); err != nil {
		return nil
	}
	p := m.GetSummary().GetQuantile()[0].GetValue()
	if math.IsNaN(p) {
		return nil
	}
	return &p
}
