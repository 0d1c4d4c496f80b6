package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/wal"
)

var servedAt = regexp.MustCompile(`"address":"([^"]+)","time":"[^"]+","message":"serving (?:/metrics|WAL)"`)

// get asks the receiver by HTTP.
func (r *receiving) get(path string) (code int, body string) {
	r.t.Helper()
	m := servedAt.FindStringSubmatch(r.output())
	if m == nil {
		r.t.Fatalf("no address in\n%s", r.output())
	}
	resp, err := http.Get("http://" + m[1] + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// scrape reads /metrics as Prometheus does: our samples by name.
func (r *receiving) scrape() map[string]float64 {
	r.t.Helper()
	_, body := r.get("/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	samples := map[string]float64{}
	for name, f := range families {
		if m := f.GetMetric()[0]; strings.HasPrefix(name, "walstream_") {
			samples[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return samples
}

// The life of a receiver as Prometheus and a load balancer see it.
func TestMetricsOfRealServer(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	r := w.receive("--create-slot")
	absent := []string{"walstream_archive_last_failure_timestamp_seconds", "walstream_last_backup_timestamp_seconds", "walstream_backup_duration_seconds", "walstream_backup_size_bytes"}
	for _, name := range absent {
		if v, there := r.scrape()[name]; there {
			t.Errorf("%s is %v", name, v)
		}
	}
	w.must("backup", "--checkpoint", "fast")
	w.primary.Psql(t, "CREATE TABLE t AS SELECT generate_series(1, 50000) i")
	w.archived()
	end := w.walEnd()
	var got map[string]float64
	testkit.Wait(t, "the slot to be looked at", func() (bool, string) {
		got = r.scrape()
		return got["walstream_synchronous"] == 1 && got["walstream_flushed_lsn_bytes"] >= float64(end), fmt.Sprint(got)
	})
	for name, want := range map[string]float64{"walstream_streaming": 1, "walstream_slot_holding": 1, "walstream_timeline": 1, "walstream_reconnects_total": 0, "walstream_archive_failures_total": 0, "walstream_lag_seconds": 0} {
		if v, there := got[name]; !there || v != want {
			t.Errorf("%s is %v, %v, want %v", name, v, there, want)
		}
	}
	testkit.Wait(t, "PostgreSQL to hear of what is flushed", func() (bool, string) {
		text := w.primary.Psql(t, "SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'walstream'")
		told, err := wal.ParseLSN(text)
		return err == nil && float64(told) >= got["walstream_flushed_lsn_bytes"], text
	})
	if got["walstream_received_bytes_total"] < 1<<20 || got["walstream_segments_archived_total"] < 1 || got["walstream_flush_seconds"] < 2 || got["walstream_spool_bytes"] == 0 {
		t.Errorf("after more than one segment: %v", got)
	}
	if code, body := r.get("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d %s", code, body)
	}

	w.primary.Stop(syscall.SIGKILL)
	r.said("not streaming, trying again")
	testkit.Wait(t, "a few tries", func() (bool, string) {
		got = r.scrape()
		return got["walstream_reconnects_total"] > 1, fmt.Sprint(got)
	})
	if got["walstream_streaming"] != 0 || got["walstream_synchronous"] != 0 || got["walstream_lag_seconds"] <= 0 {
		t.Errorf("without a server: %v", got)
	}
	if code, body := r.get("/readyz"); code != http.StatusServiceUnavailable || !strings.HasPrefix(body, "not streaming since ") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, body := r.get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if code, _ := r.get("/elsewhere"); code != http.StatusNotFound {
		t.Errorf("/elsewhere: %d", code)
	}
	r.stop()

	// The next process begins with the backup and with counters at 0.
	w.primary.Start()
	r = w.receive()
	testkit.Wait(t, "a look at backups and slot", func() (bool, string) {
		got = r.scrape()
		return got["walstream_last_backup_timestamp_seconds"] > 0 && got["walstream_slot_retained_bytes"] > 0, fmt.Sprint(got)
	})
	var list struct{ Backups []backupView }
	b := decode(t, w.must("list", "--json"), &list).Backups[0]
	if got["walstream_backup_size_bytes"] != float64(b.PlainBytes) || got["walstream_last_backup_timestamp_seconds"] != seconds(b.Finished) {
		t.Errorf("%v, want those of %+v", got, b)
	}
	var names []string
	for name := range got {
		names = append(names, name)
	}
	slices.Sort(names)
	want := slices.DeleteFunc(metricNames(), func(name string) bool { return name == "walstream_archive_last_failure_timestamp_seconds" })
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	r.stop()
}

// An address in use is an error that says how to get another, or none; what it
// says works.
func TestHTTPAddressInUse(t *testing.T) {
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.env = []string{"WALSTREAM_HTTP_LISTEN=" + l.Addr().String()}
	_, out, code := w.run("receive", "--create-slot")
	want := "walstream: http.listen " + l.Addr().String() + ": address already in use\nhint: "
	if code != 1 || !strings.Contains(out, want) || !strings.Contains(out, "WALSTREAM_HTTP_LISTEN=off walstream receive") {
		t.Errorf("exit code %d, want %s\n%s", code, want, out)
	}
	w.env = []string{"WALSTREAM_HTTP_LISTEN=off"}
	r := w.receive("--create-slot")
	if strings.Contains(r.output(), "serving /metrics") {
		t.Error(r.output())
	}
	r.stop()
}
