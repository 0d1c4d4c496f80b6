package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/wal"
)

// metric is one number of /metrics. What never happened and what is not known
// has no value and is absent; counters begin at 0. Names are never changed.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(*statusView) (v float64, known bool)
}

// metrics are all but the histogram.
func metrics() []metric {
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	return append(lsnMetrics(), []metric{
		{"walstream_streaming", "1 while WAL streams from the primary, 0 otherwise.", gauge,
			func(v *statusView) (float64, bool) { return bit(v.State == receiver.Streaming), true }},
		{"walstream_synchronous", "1 while PostgreSQL counts walstream as a synchronous standby (sync or quorum in pg_stat_replication, looked at every 10 s), 0 otherwise. Absent where the role may not see that: it needs pg_read_all_stats.", gauge,
			func(v *statusView) (float64, bool) {
				return bit(v.SyncState == "sync" || v.SyncState == "quorum"), v.SyncState != ""
			}},
		{"walstream_lag_seconds", "Age of the newest moment for which all WAL that the primary had flushed by then is known to be durable here; 0 while streaming with nothing missing. It grows while there is no connection, and begins at the start of the process.", gauge,
			func(v *statusView) (float64, bool) { return number(v.LagSeconds) }},
		{"walstream_timeline", "Timeline that is received.", gauge,
			func(v *statusView) (float64, bool) { return float64(v.Timeline), v.Timeline != 0 }},
		{"walstream_received_bytes_total", "Bytes of WAL received by this process, repeated ones included.", counter,
			func(v *statusView) (float64, bool) { return float64(v.ReceivedBytes), true }},
		{"walstream_reconnects_total", "Tries to connect after the first.", counter,
			func(v *statusView) (float64, bool) { return float64(v.Reconnects), true }},
		{"walstream_segments_archived_total", "Complete segments confirmed in the archive by this process.", counter,
			func(v *statusView) (float64, bool) { return float64(v.Archive.Segments), true }},
		{"walstream_archive_failures_total", "Tries to store WAL in the archive that failed.", counter,
			func(v *statusView) (float64, bool) { return float64(v.Archive.Failures), true }},
		{"walstream_archive_last_failure_timestamp_seconds", "When storing WAL in the archive failed last.", gauge,
			func(v *statusView) (float64, bool) { return timestamp(v.Archive.LastFailure) }},
		{"walstream_archive_last_success_timestamp_seconds", "When WAL was stored in the archive last.", gauge,
			func(v *statusView) (float64, bool) { return timestamp(v.Archive.LastSuccess) }},
		{"walstream_spool_bytes", "Disk space of the segments in the spool.", gauge,
			func(v *statusView) (float64, bool) { return float64(v.Spool.Bytes), v.Spool.open }},
		{"walstream_spool_limit_bytes", "What the spool may take: spool.max_size. Absent without a limit.", gauge,
			func(v *statusView) (float64, bool) { return float64(v.Spool.Limit), v.Spool.Limit > 0 }},
		{"walstream_spool_segments", "Segments in the spool that wait for the archive.", gauge,
			func(v *statusView) (float64, bool) { return float64(v.Spool.Waiting), v.Spool.open }},
		{"walstream_slot_retained_bytes", "WAL that the replication slot keeps on the primary.", gauge,
			func(v *statusView) (float64, bool) {
				if v.Slot.RestartLSN == 0 || v.ServerLSN == 0 {
					return 0, false
				}
				return float64(lsnDistance(v.Slot.RestartLSN, v.ServerLSN)), true
			}},
		{"walstream_slot_holding", "1 if the replication slot kept WAL when it was looked at last, 0 if it is missing or lost, or beyond hold_max.", gauge,
			func(v *statusView) (float64, bool) {
				return bit(v.Slot.Holds() && v.Slot.OverMax.IsZero()), !v.Slot.Looked.IsZero()
			}},
		{"walstream_gap_segments", "Segments that the server had removed before they were received, as long as there is no backup behind them.", gauge,
			func(v *statusView) (float64, bool) { return float64(openGaps(v.Gaps)), v.Gaps != nil }},
		{"walstream_last_backup_timestamp_seconds", "When the newest base backup in the archive was finished.", gauge,
			ofBackup(func(b *backupView) float64 { return seconds(b.Finished) })},
		{"walstream_backup_duration_seconds", "How long the newest base backup took.", gauge,
			ofBackup(func(b *backupView) float64 { return b.Finished.Sub(b.Started).Seconds() })},
		{"walstream_backup_size_bytes", "Size of the newest base backup before compression.", gauge,
			ofBackup(func(b *backupView) float64 { return float64(b.PlainBytes) })},
	}...)
}

// lsnMetrics are positions: bytes from the beginning of all WAL.
func lsnMetrics() []metric {
	position := func(name, help string, lsn func(*statusView) wal.LSN) metric {
		return metric{"walstream_" + name + "_lsn_bytes", help, prometheus.GaugeValue,
			func(v *statusView) (float64, bool) { at := lsn(v); return float64(at), at != 0 }}
	}
	return []metric{
		position("server", "How far the primary has flushed its WAL, as it said last.", func(v *statusView) wal.LSN { return v.ServerLSN }),
		position("received", "Up to where WAL was received.", func(v *statusView) wal.LSN { return v.Received }),
		position("flushed", "Up to where WAL is durable here; with ack: spool it is acknowledged up to there.", func(v *statusView) wal.LSN { return v.Flushed }),
		position("archived", "Up to where the archive holds complete segments without a hole.", func(v *statusView) wal.LSN { return v.ArchivedLSN }),
		position("tail_archived", "Up to where the archive holds WAL without a hole, the beginnings of unfinished segments included (tail_interval).", func(v *statusView) wal.LSN { return v.TailLSN }),
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func number(v *float64) (float64, bool) {
	if v == nil {
		return 0, false
	}
	return *v, true
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1e3 }

func timestamp(t time.Time) (float64, bool) { return seconds(t), !t.IsZero() }

func ofBackup(value func(*backupView) float64) func(*statusView) (float64, bool) {
	return func(v *statusView) (float64, bool) {
		if v.Backup == nil {
			return 0, false
		}
		return value(v.Backup), true
	}
}

// collector turns the daemon's status into metrics when it is asked.
type collector struct {
	status  func() *statusView
	metrics []metric
	descs   []*prometheus.Desc // of metrics
}

func newCollector(status func() *statusView) *collector {
	c := &collector{status: status, metrics: metrics()}
	for _, m := range c.metrics {
		c.descs = append(c.descs, prometheus.NewDesc(m.name, m.help, nil, nil))
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	v := c.status()
	for i, m := range c.metrics {
		value, known := m.value(v)
		if !known {
			continue
		}
		out, err := prometheus.NewConstMetric(c.descs[i], m.kind, value)
		if err != nil {
			out = prometheus.NewInvalidMetric(c.descs[i], err)
		}
		ch <- out
	}
}
