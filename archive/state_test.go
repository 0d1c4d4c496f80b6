package archive_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Of several processes one works at a time, for as long as it likes; of one
// that dies the lease runs out, and one that loses it stops.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArchive(t)
		var mu sync.Mutex
		working, done := 0, 0
		work := func(context.Context) error {
			mu.Lock()
			working++
			if working > 1 {
				t.Error("two work at the same time")
			}
			mu.Unlock()
			time.Sleep(time.Hour)
			mu.Lock()
			defer mu.Unlock()
			working--
			done++
			return nil
		}
		var wg sync.WaitGroup
		for _, name := range []string{"left", "right", "third"} {
			wg.Go(func() {
				var leased *archive.LeasedError
				for errors.As(a.WithLease(t.Context(), name, work), &leased) {
					time.Sleep(10 * time.Second)
				}
			})
		}
		wg.Wait()
		if done != 3 {
			t.Errorf("%d have worked, want 3", done)
		}

		// One that was killed has left this, of which the checksum is damaged.
		until := time.Now().Add(5 * time.Minute).UTC().Format(time.RFC3339Nano)
		old := readAll(t, a, "state/lease.json")
		if err := a.Store().Swap(t.Context(), "state/lease.json", old, []byte("{\n  \"holder\": \"dead\",\n  \"until\": \""+until+"\",\n  \"crc32c\": \"00000000\"\n}\n")); err != nil {
			t.Fatal(err)
		}
		var leased *archive.LeasedError
		if err := a.WithLease(t.Context(), "left", work); !errors.As(err, &leased) || leased.Holder != "dead" {
			t.Errorf("beside the dead one: %v", err)
		}
		time.Sleep(5*time.Minute + time.Second)
		if err := a.WithLease(t.Context(), "left", work); err != nil {
			t.Errorf("after the dead one: %v", err)
		}

		// Somebody takes it away.
		err := a.WithLease(t.Context(), "left", func(ctx context.Context) error {
			old := readAll(t, a, "state/lease.json")
			later := time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)
			if err := a.Store().Swap(ctx, "state/lease.json", old, []byte(`{"holder":"right","until":"`+later+`"}`)); err != nil {
				return err
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if !errors.As(err, &leased) || leased.Holder != "right" {
			t.Errorf("without the lease work goes on: %v", err)
		}
	})
}

func readAll(t *testing.T, a *archive.Archive, name string) []byte {
	t.Helper()
	r, err := a.Store().Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b strings.Builder
	buf := make([]byte, 512)
	for {
		n, err := r.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return []byte(b.String())
		}
	}
}

func TestHeartbeat(t *testing.T) {
	a := newArchive(t)
	at := time.Date(2026, 11, 22, 12, 0, 0, 123456000, time.UTC)
	left := archive.Heartbeat{Receiver: "left", Timeline: 2, InsertLSN: 0x300100, Time: at, FlushedLSN: 0x300200}
	odd := archive.Heartbeat{Receiver: "a/b \"c\"", Timeline: 1, InsertLSN: 7, Time: at}
	for _, b := range []archive.Heartbeat{{Receiver: "left"}, odd, left} {
		if err := a.PutHeartbeat(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range map[string]string{"state/receiver/bad.json": "{", "state/receiver/other.json": `{"receiver":"left"}`} {
		if err := a.Store().Put(t.Context(), name, strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := a.Heartbeats(t.Context())
	if diff := cmp.Diff([]archive.Heartbeat{odd, left}, got); err != nil || diff != "" {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}

	h := segment.History{Timeline: 3, Ancestors: []segment.Switch{{Timeline: 1, End: 0x100000}, {Timeline: 2, End: 0x400000}}}
	for name, test := range map[string]struct {
		before time.Duration
		end    uint64
		h      segment.History
		want   bool
	}{
		"proof":                         {5 * time.Second, 0x300100, h, true},
		"within the margin":             {5*time.Second - 1, 0x300100, h, false},
		"later":                         {-time.Second, 0x300100, h, false},
		"WAL ends before":               {time.Hour, 0x3000ff, h, false},
		"another branch":                {time.Hour, 0x300100, segment.History{Timeline: 1}, false},
		"behind the fork of its branch": {time.Hour, 0x300100, segment.History{Timeline: 3, Ancestors: []segment.Switch{{Timeline: 2, End: 0x300000}}}, false},
		"on the server's own":           {time.Hour, 0x400000, segment.History{Timeline: 2, Ancestors: h.Ancestors[:1]}, true},
	} {
		if got := left.Covers(at.Add(-test.before), test.h, wal.LSN(test.end)); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
