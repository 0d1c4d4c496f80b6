package archive_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memstore"
)

// Names that become the same object name are still told apart, and a name
// may be there twice.
func TestRestorePoints(t *testing.T) {
	store := memstore.New()
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
	for name, want := range map[string][]archive.RestorePoint{
		"a b": {points[0], points[2]}, "a_b": {points[1]}, "a b/../ü'%": {points[3]}, "b": nil, "x-a b": nil, "a/b": nil,
	} {
		got, err := a.RestorePoints(t.Context(), name)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", name, err, diff)
		}
	}
	if err := store.Put(t.Context(), "points/0000000000000009-broken.json", strings.NewReader("{")); err != nil {
		t.Fatal(err)
	}
	var damage *archive.CorruptError
	if p, err := a.RestorePoints(t.Context(), "broken"); !errors.As(err, &damage) {
		t.Errorf("a damaged note counts as none: %+v, %v", p, err)
	}
}

// A restore point is noted before its segment counts as stored.
func TestUploaderNotesRestorePoints(t *testing.T) {
	for _, fail := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			u := newUpload(t)
			g := newWAL(1, 1, 1)
			at := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
			r := g.RestorePoint(at, "before import")
			g.FillSegments(1)
			u.receive(g)
			u.store.onPut = func(name string) error {
				if fail && strings.HasPrefix(name, "points/") {
					return errors.New("not today")
				}
				return nil
			}
			u.run(time.Minute)
			got, err := u.a.RestorePoints(t.Context(), "before import")
			if err != nil {
				t.Fatal(err)
			}
			if fail {
				u.wantConfirmed()
				return
			}
			u.wantConfirmed("1:0/200000")
			if diff := cmp.Diff([]archive.RestorePoint{{Name: "before import", LSN: r.End, Timeline: 1, Time: at}}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
