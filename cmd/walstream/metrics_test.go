package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"go.yaml.in/yaml/v3"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit/memfs"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/segment"
)

// metricNames are a contract: alerts and dashboards elsewhere use them. None
// is ever changed or removed.
func metricNames() []string {
	return strings.Fields(`
		walstream_archive_failures_total walstream_archive_last_failure_timestamp_seconds
		walstream_archive_last_success_timestamp_seconds walstream_archived_lsn_bytes
		walstream_backup_duration_seconds walstream_backup_size_bytes walstream_flush_seconds
		walstream_flushed_lsn_bytes walstream_gap_segments walstream_lag_seconds walstream_last_backup_timestamp_seconds
		walstream_received_bytes_total walstream_received_lsn_bytes walstream_reconnects_total
		walstream_segments_archived_total walstream_server_lsn_bytes walstream_slot_holding
		walstream_slot_retained_bytes walstream_spool_bytes walstream_spool_limit_bytes walstream_spool_segments
		walstream_streaming walstream_synchronous walstream_tail_archived_lsn_bytes walstream_timeline`)
}

// gathered are the samples of a view by name.
func gathered(t *testing.T, v *statusView) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	c := newCollector(func() *statusView { return v })
	for _, c := range []prometheus.Collector{c, newFlushTimes()} {
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	samples := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		samples[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return samples
}

func TestMetricValues(t *testing.T) {
	began := utc("09:00:00")
	half, no := 0.5, int64(0)
	v := &statusView{
		Status: receiver.Status{State: receiver.Streaming, Timeline: 3, ServerLSN: 0x5000, Received: 0x4000, Flushed: 0x3000,
			ReceivedBytes: 77, Reconnects: 2},
		SyncState: "quorum", LagSeconds: &half, LagBytes: &no, ArchivedLSN: 0x2000, TailLSN: 0x2800,
		Slot:    &receiver.HoldStatus{SlotState: receiver.SlotState{Name: "s", Exists: true, RestartLSN: 0x1000}, Looked: began},
		Archive: archiveView{LastSuccess: began, LastFailure: began.Add(1500 * time.Millisecond), Segments: 4, Failures: 5},
		Spool:   spoolView{open: true, Bytes: 1 << 20, Limit: 1 << 30, Waiting: 6},
		Gaps:    []gapView{{Segments: 7}, {Segments: 8, Closed: true}},
		Backup:  &backupView{Started: began, Finished: began.Add(time.Minute), PlainBytes: 99},
	}
	at := float64(began.Unix())
	want := map[string]float64{
		"walstream_archive_failures_total": 5, "walstream_archive_last_failure_timestamp_seconds": at + 1.5,
		"walstream_archive_last_success_timestamp_seconds": at, "walstream_archived_lsn_bytes": 0x2000,
		"walstream_backup_duration_seconds": 60, "walstream_backup_size_bytes": 99, "walstream_flush_seconds": 0,
		"walstream_flushed_lsn_bytes": 0x3000, "walstream_gap_segments": 7, "walstream_lag_seconds": 0.5, "walstream_last_backup_timestamp_seconds": at + 60,
		"walstream_received_bytes_total": 77, "walstream_received_lsn_bytes": 0x4000, "walstream_reconnects_total": 2,
		"walstream_segments_archived_total": 4, "walstream_server_lsn_bytes": 0x5000, "walstream_slot_holding": 1,
		"walstream_slot_retained_bytes": 0x4000, "walstream_spool_bytes": 1 << 20, "walstream_spool_limit_bytes": 1 << 30, "walstream_spool_segments": 6,
		"walstream_streaming": 1, "walstream_synchronous": 1, "walstream_tail_archived_lsn_bytes": 0x2800, "walstream_timeline": 3,
	}
	got := gathered(t, v)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var names []string
	for name := range got {
		names = append(names, name)
	}
	slices.Sort(names)
	if diff := cmp.Diff(metricNames(), names); diff != "" {
		t.Error(diff)
	}

	v.State, v.SyncState, v.Slot.RestartLSN = receiver.Waiting, "potential", 0
	got = gathered(t, v)
	if _, there := got["walstream_slot_retained_bytes"]; there || got["walstream_streaming"]+got["walstream_synchronous"]+got["walstream_slot_holding"] != 0 {
		t.Errorf("neither streaming nor synchronous, without a slot: %v", got)
	}
}

// What never happened and what is not known is absent: 0 would be a lie.
func TestAbsentIsNotZero(t *testing.T) {
	v := &statusView{Status: receiver.Status{State: receiver.Connecting}, Slot: &receiver.HoldStatus{}}
	want := map[string]float64{
		"walstream_streaming": 0, "walstream_flush_seconds": 0, // the counters begin
		"walstream_received_bytes_total": 0, "walstream_reconnects_total": 0, "walstream_segments_archived_total": 0, "walstream_archive_failures_total": 0,
	}
	if diff := cmp.Diff(want, gathered(t, v)); diff != "" {
		t.Error(diff)
	}
}

// docs/monitoring.md explains every metric in the words of its HELP, and its
// alerts use no others.
func TestMonitoringIsComplete(t *testing.T) {
	body, err := os.ReadFile(filepath.Join(root, "docs/monitoring.md"))
	if err != nil {
		t.Fatal(err)
	}
	doc := string(body)
	want := "| `walstream_flush_seconds` | " + flushHelp + " |"
	if !strings.Contains(doc, want) {
		t.Errorf("missing:\n%s", want)
	}
	for _, m := range metrics() {
		if row := fmt.Sprintf("| `%s` | %s |", m.name, m.help); !strings.Contains(doc, row) {
			t.Errorf("missing:\n%s", row)
		}
	}
	for _, name := range regexp.MustCompile(`walstream_\w+`).FindAllString(doc, -1) {
		if !slices.Contains(metricNames(), strings.TrimSuffix(name, "_bucket")) {
			t.Errorf("there is no %s", name)
		}
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct{ Alert, Expr, For string }
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(fence.FindStringSubmatch(doc)[1]))
	dec.KnownFields(true)
	if err := dec.Decode(&rules); err != nil || len(rules.Groups) != 1 || len(rules.Groups[0].Rules) < 8 {
		t.Fatalf("%v %+v", err, rules)
	}
	for _, r := range rules.Groups[0].Rules {
		if !strings.HasPrefix(r.Alert, "Walstream") || !strings.Contains(r.Expr, "walstream_") {
			t.Errorf("%+v", r)
		}
	}
}

func TestFlushTimes(t *testing.T) { synctest.Test(t, testFlushTimes) }

func testFlushTimes(t *testing.T) {
	f := newFlushTimes()
	check := func(what string, want time.Duration) {
		t.Helper()
		if got := f.p99(); got == nil || *got != want.Seconds() {
			t.Errorf("%s: %v, want %s", what, got, want)
		}
	}
	none := func(what string) {
		t.Helper()
		if got := f.p99(); got != nil {
			t.Errorf("%s: %v", what, *got)
		}
	}
	none("a percentile of nothing")
	for range 1000 {
		f.observe(time.Millisecond)
	}
	check("1 ms each", time.Millisecond)
	f.observe(time.Second)
	check("one in a thousand is slow", time.Millisecond)
	for range 20 {
		f.observe(time.Second)
	}
	check("two in a hundred are", time.Second)
	time.Sleep(50 * time.Second)
	check("within the last minute", time.Second)
	time.Sleep(2 * time.Minute)
	none("nothing for two minutes")
	f.observe(time.Hour)
	check("beyond all buckets", time.Hour)
	if n := testing.AllocsPerRun(1000, func() { f.observe(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations for each flush", n)
	}
}

// Ready is: WAL comes, and gets to where it has to.
func TestUnready(t *testing.T) {
	inBerlin(t)
	failed := &hint.Failure{Error: "no luck", Since: utc("09:00:00"), Count: 3}
	v := &statusView{Status: receiver.Status{State: receiver.Streaming, Orphan: &receiver.Orphan{}}}
	check := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, v.unready()); diff != "" {
			t.Error(diff)
		}
	}
	check()
	v.Archive.Failure = failed
	check("archiving fails since 2026-11-22 10:00:00 CET, 3 times: no luck")
	v.State = receiver.Connecting
	check("not streaming: still connecting", "archiving fails since 2026-11-22 10:00:00 CET, 3 times: no luck")
	v.Archive.Failure, v.Failure = nil, failed
	check("not streaming since 2026-11-22 10:00:00 CET, 3 times: no luck")
}

// A disk that hangs in fdatasync keeps nobody from asking how it is.
func TestHangingDiskFreezesNoAnswer(t *testing.T) {
	d := newDaemon(&config.Loaded{}, zerolog.Nop())
	var err error
	d.recv, err = receiver.New(receiver.Config{Slot: "s", OpenSink: func(context.Context, segment.Identity, receiver.SlotState) (receiver.Sink, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	id := segment.Identity{SystemIdentifier: 1, MajorVersion: 15, SegmentSize: 1 << 20}
	disk, hangs, release := memfs.New(), make(chan struct{}), make(chan struct{})
	spool, err := segment.OpenSpool(segment.SpoolConfig{Dir: "/spool", FS: disk, Identity: id, OnFlush: d.flushes.observe})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(spool.Begin(1, 1<<20), spool.Append(1, 1<<20, make([]byte, 8192))); err != nil {
		t.Fatal(err)
	}
	d.spool, d.identity = spool, id
	disk.OnOp = func(op fsx.Op) error {
		if op.Kind == fsx.OpDatasync {
			close(hangs)
			<-release
		}
		return nil
	}
	synced := make(chan error, 1)
	go func() {
		_, err := spool.Sync()
		synced <- err
	}()
	<-hangs
	handler, err := d.handler(&gate{})
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/metrics": 200} {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			if w.Code != want {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
	}()
	select {
	case <-answered:
	case <-time.After(time.Minute):
		t.Error("no answer while the disk hangs")
	}
	close(release)
	if err := <-synced; err != nil {
		t.Fatal(err)
	}
	spool.Close()
	if d.flushes.p99() == nil {
		t.Error("the flush is not counted")
	}
}
