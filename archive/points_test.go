package archive_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
)

// Names that become the same object name are still told apart, and the first
// point of a name counts.
func TestRestorePoints(t *testing.T) {
	store := archive.NewMem()
	a, err := archive.Pin(t.Context(), store, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 22, 9, 0, 0, 123456000, time.UTC)
	points := []archive.RestorePoint{
		{Name: "a b", LSN: 1<<32 | 2, Timeline: 3, Time: at}, {Name: "a_b", LSN: 8, Timeline: 1, Time: at},
		{Name: "a b", LSN: 2 << 32, Timeline: 4, Time: at}, {Name: "a b/../ü'%", LSN: 16, Timeline: 1, Time: at},
	}
	var objects []string
	for _, p := range points {
		if err := a.PutRestorePoint(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	for info, err := range store.List(t.Context(), "points/", "") {
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, info.Name)
	}
	want := []string{
		"points/0000000000000008-a_b.json", "points/0000000000000010-a_b_..____.json",
		"points/0000000100000002-a_b.json", "points/0000000200000000-a_b.json",
	}
	if diff := cmp.Diff(want, objects); diff != "" {
		t.Error(diff)
	}
	for i, p := range points {
		if i == 2 { // the second of its name
			p = points[0]
		}
		if got, err := a.RestorePoint(t.Context(), p.Name); err != nil || got != p {
			t.Errorf("%q: %+v, %v", p.Name, got, err)
		}
	}
	for _, name := range []string{"b", "x-a b", "a/b"} {
		if p, err := a.RestorePoint(t.Context(), name); !errors.Is(err, archive.ErrNotExist) {
			t.Errorf("%q: %+v, %v", name, p, err)
		}
	}
	if err := store.Put(t.Context(), "points/0000000000000009-broken.json", strings.NewReader("{")); err != nil {
		t.Fatal(err)
	}
	if p, err := a.RestorePoint(t.Context(), "broken"); err == nil || errors.Is(err, archive.ErrNotExist) {
		t.Errorf("a damaged note counts as none: %+v, %v", p, err)
	}
}
