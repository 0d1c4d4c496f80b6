package archive_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
)

func testSwap(t *testing.T, s archive.Store) {
	const name = "state/receiver/left.json"
	swap := func(old, body []byte, want error) {
		t.Helper()
		if err := s.Swap(t.Context(), name, old, body); !errors.Is(err, want) {
			t.Errorf("Swap(%q, %q): %v, want %v", old, body, err, want)
		}
	}
	swap([]byte("one"), []byte("two"), archive.ErrChanged) // of what is not there
	if names := list(t, s, "", ""); len(names) != 0 {
		t.Errorf("a refused Swap left %q", names)
	}
	swap(nil, []byte("one"), nil)
	swap(nil, []byte("two"), archive.ErrChanged)
	swap([]byte("other"), []byte("two"), archive.ErrChanged)
	if got := getRange(t, s, name, 0, -1); got != "one" {
		t.Errorf("refused Swaps left %q, want the first contents", got)
	}
	swap([]byte("one"), []byte("longer than before"), nil)
	if got := getRange(t, s, name, 0, -1); got != "longer than before" {
		t.Errorf("after a Swap the object holds %q", got)
	}
	swap([]byte("longer than before"), []byte(""), nil)
	swap(nil, []byte("two"), archive.ErrChanged) // empty is not absent
	swap([]byte{}, []byte("end"), nil)
	if names := list(t, s, "", ""); !cmp.Equal(names, []string{name}) {
		t.Errorf("listed %q, want only %s", names, name)
	}
	if err := s.Delete(t.Context(), name); err != nil {
		t.Error(err)
	}
	swap(nil, []byte("anew"), nil)
	for _, bad := range []string{"walstream.json", "state", "wal/state/x", "state/", "state/../walstream.json"} {
		if err := s.Swap(t.Context(), bad, nil, nil); err == nil || errors.Is(err, archive.ErrChanged) {
			t.Errorf("Swap(%s): %v, want it refused", bad, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Swap(ctx, "state/late", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Swap after the end of its context: %v", err)
	}
}

// testSwapOneWinner counts by Swap: no step may be lost or doubled.
func testSwapOneWinner(t *testing.T, s archive.Store) {
	const name, workers, steps = "state/count", 8, 5
	put(t, s, name, "0")
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for done := 0; done < steps; {
				r, err := s.Get(t.Context(), name, 0, -1)
				if err != nil {
					t.Error(err)
					return
				}
				old, err := io.ReadAll(r)
				r.Close()
				var n int
				if _, serr := fmt.Sscan(string(old), &n); err != nil || serr != nil {
					t.Errorf("read %q: %v, %v", old, err, serr)
					return
				}
				switch err := s.Swap(t.Context(), name, old, fmt.Append(nil, n+1)); {
				case err == nil:
					done++
				case !errors.Is(err, archive.ErrChanged):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := getRange(t, s, name, 0, -1); got != fmt.Sprint(workers*steps) {
		t.Errorf("%d steps counted to %s", workers*steps, got)
	}
}
