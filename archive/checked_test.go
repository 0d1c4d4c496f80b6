package archive_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
)

// Of an object that was cut or in which a bit has changed nothing wrong is
// believed: a heartbeat of a later time would prove what is not so.
func TestDamagedJSON(t *testing.T) {
	a := newArchive(t)
	at := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	beat := archive.Heartbeat{Receiver: "walstream", Timeline: 1, InsertLSN: 0x2000148, Time: at, FlushedLSN: 0x2000100}
	point := archive.RestorePoint{Name: "before import", LSN: 0x2000148, Timeline: 1, Time: at}
	if err := errors.Join(a.PutHeartbeat(t.Context(), beat), a.PutRestorePoint(t.Context(), point)); err != nil {
		t.Fatal(err)
	}
	check := func(name string, damaged []byte, wrong func() any) {
		t.Helper()
		if err := errors.Join(a.Store().Delete(t.Context(), name), a.Store().Put(t.Context(), name, bytes.NewReader(damaged))); err != nil {
			t.Fatal(err)
		}
		if got := wrong(); got != nil {
			t.Errorf("%s: %v", damaged, got)
		}
	}
	for name, wrong := range map[string]func() any{
		"state/receiver/walstream.json": func() any {
			got, err := a.Heartbeats(t.Context())
			if err == nil && (len(got) == 0 || cmp.Equal(got, []archive.Heartbeat{beat})) {
				return nil
			}
			return got
		},
		"points/0000000002000148-before_import.json": func() any {
			got, err := a.RestorePoints(t.Context(), point.Name)
			if err != nil || cmp.Equal(got, []archive.RestorePoint{point}) {
				return nil
			}
			return got
		},
	} {
		body := readAll(t, a, name)
		for i := range 8 * len(body) {
			flipped := slices.Clone(body)
			flipped[i/8] ^= 1 << (i % 8)
			check(name, flipped, wrong)
		}
		for n := range body {
			check(name, body[:n], wrong)
		}
	}
}
