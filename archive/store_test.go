package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
)

// testStore is the contract of archive.Store as a program: every store passes
// the same tests. It tests the stores that open returns: each is new and empty.
func testStore(t *testing.T, open func(t *testing.T) archive.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, archive.Store)
	}{
		{"PutGet", testPutGet},
		{"CreateOnly", testCreateOnly},
		{"OneWinner", testOneWinner},
		{"WholeOrNothing", testWholeOrNothing},
		{"Ranges", testRanges},
		{"Absent", testAbsent},
		{"List", testList},
		{"ListStops", testListStops},
		{"Delete", testDelete},
		{"DeleteBesidePut", testDeleteBesidePut},
		{"Big", testBig},
		{"OddNames", testOddNames},
		{"Cancel", testCancel},
		{"Swap", testSwap},
		{"SwapOneWinner", testSwapOneWinner},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func put(t *testing.T, s archive.Store, name, body string) {
	t.Helper()
	if err := s.Put(t.Context(), name, strings.NewReader(body)); err != nil {
		t.Fatalf("Put(%s): %v", name, err)
	}
}

func getRange(t *testing.T, s archive.Store, name string, off, n int64) string {
	t.Helper()
	r, err := s.Get(t.Context(), name, off, n)
	if err != nil {
		t.Fatalf("Get(%s, %d, %d): %v", name, off, n, err)
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("Get(%s, %d, %d): read: %v", name, off, n, err)
	}
	return string(body)
}

func list(t *testing.T, s archive.Store, prefix, after string) []string {
	t.Helper()
	names := []string{}
	for info, err := range s.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatalf("List(%q, %q): %v", prefix, after, err)
		}
		names = append(names, info.Name)
	}
	return names
}

func testPutGet(t *testing.T, s archive.Store) {
	before := time.Now().Add(-time.Minute)
	for _, name := range []string{"top", "wal/00000001/x.zst", "wal/00000001.history", "a/b/c/d/e-f_g.H9"} {
		put(t, s, name, "body of "+name)
		if got := getRange(t, s, name, 0, -1); got != "body of "+name {
			t.Errorf("Get(%s) = %q", name, got)
		}
		info, err := s.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Name != name || info.Size != int64(len("body of "+name)) {
			t.Errorf("Stat(%s) = %+v", name, info)
		}
		if info.Modified.Before(before) || info.Modified.After(time.Now().Add(time.Minute)) {
			t.Errorf("Stat(%s): modified %s", name, info.Modified)
		}
		if err := s.Confirm(t.Context(), name); err != nil {
			t.Errorf("Confirm(%s): %v", name, err)
		}
	}
	put(t, s, "empty", "")
	if got := getRange(t, s, "empty", 0, -1); got != "" {
		t.Errorf("empty object holds %q", got)
	}
}

func testCreateOnly(t *testing.T, s archive.Store) {
	put(t, s, "a/b", "first")
	if err := s.Put(t.Context(), "a/b", strings.NewReader("second")); !errors.Is(err, archive.ErrExists) {
		t.Errorf("second Put: %v, want ErrExists", err)
	}
	if got := getRange(t, s, "a/b", 0, -1); got != "first" {
		t.Errorf("after a refused Put the object holds %q", got)
	}
}

func testOneWinner(t *testing.T, s archive.Store) {
	const n = 64
	errs := make([]error, n)
	bodies := make([]string, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		bodies[i] = strings.Repeat(fmt.Sprintf("writer %02d ", i), 1000)
		wg.Go(func() {
			<-start
			errs[i] = s.Put(t.Context(), "new/dir/name", strings.NewReader(bodies[i]))
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("writers %d and %d both succeeded", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, archive.ErrExists):
			t.Errorf("writer %d: %v, want ErrExists", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody succeeded")
	}
	if got := getRange(t, s, "new/dir/name", 0, -1); got != bodies[winner] {
		t.Errorf("the object is not that of the writer who succeeded: %.40q", got)
	}
}

func testWholeOrNothing(t *testing.T, s archive.Store) {
	// A truncated file or stream is no end of a body.
	for _, broken := range []error{errors.New("source broke"), io.ErrUnexpectedEOF} {
		body := io.MultiReader(strings.NewReader(strings.Repeat("x", 100_000)), iotest.ErrReader(broken))
		if err := s.Put(t.Context(), "dir/part", body); !errors.Is(err, broken) {
			t.Errorf("Put from a reader that fails with %q: %v, want the reader's error", broken, err)
		}
		if _, err := s.Stat(t.Context(), "dir/part"); !errors.Is(err, archive.ErrNotExist) {
			t.Errorf("after a failed Put: %v, want ErrNotExist", err)
		}
		if got := list(t, s, "", ""); len(got) != 0 {
			t.Errorf("after a failed Put the store lists %q", got)
		}
	}
	put(t, s, "dir/part", "whole")
}

func testRanges(t *testing.T, s archive.Store) {
	put(t, s, "r", "0123456789")
	for _, test := range []struct {
		off, n int64
		want   string
	}{
		{0, -1, "0123456789"}, {0, 10, "0123456789"}, {0, 0, ""}, {0, 3, "012"}, {3, 4, "3456"},
		{3, -1, "3456789"}, {8, 10, "89"}, {10, 1, ""}, {10, -1, ""}, {99, 1, ""}, {99, -1, ""},
	} {
		if got := getRange(t, s, "r", test.off, test.n); got != test.want {
			t.Errorf("Get(%d, %d) = %q, want %q", test.off, test.n, got, test.want)
		}
	}
	if _, err := s.Get(t.Context(), "r", -1, 5); err == nil {
		t.Error("a negative offset is accepted")
	}
}

func testAbsent(t *testing.T, s archive.Store) {
	put(t, s, "wal/00000001/x.zst", "x")
	for _, name := range []string{"y", "wal", "wal/00000001", "wal/00000002/x.zst", "wal/00000001/x.zst/y"} {
		if _, err := s.Get(t.Context(), name, 0, -1); !errors.Is(err, archive.ErrNotExist) {
			t.Errorf("Get(%s): %v, want ErrNotExist", name, err)
		}
		if _, err := s.Stat(t.Context(), name); !errors.Is(err, archive.ErrNotExist) {
			t.Errorf("Stat(%s): %v, want ErrNotExist", name, err)
		}
		if err := s.Confirm(t.Context(), name); !errors.Is(err, archive.ErrNotExist) {
			t.Errorf("Confirm(%s): %v, want ErrNotExist", name, err)
		}
	}
}

func testList(t *testing.T, s archive.Store) {
	sorted := []string{
		"Z", "a", "b-c/x", "b.c", "b/c", "b/c.d", "b/c1/x", "b0", "backup/1/data", "backups/1",
		"wal/00000001.history", "wal/00000001/1.tail/0-1", "wal/00000001/1.tail/1-2", "wal/00000001/1.zst", "wal/00000001/2.zst",
		"wal/00000002.history", "wal/00000002/1.zst",
	}
	for _, i := range rand.Perm(len(sorted)) {
		put(t, s, sorted[i], strings.Repeat("x", i))
	}
	prefixes := append([]string{"", "w", "wal", "wal/", "wal/00000001", "wal/00000001/", "wal/00000001/1.tail/", "b", "b/", "no", "no/", "../", ".", "//"}, sorted...)
	afters := append([]string{"", "wal/00000001/~", "wal/00000001/1", "b/", "b/c1", "zz", "A"}, sorted...)
	for _, prefix := range prefixes {
		for _, after := range afters {
			want := []string{}
			for _, name := range sorted {
				if strings.HasPrefix(name, prefix) && name > after {
					want = append(want, name)
				}
			}
			if diff := cmp.Diff(want, list(t, s, prefix, after)); diff != "" {
				t.Errorf("List(%q, %q) (-want +got):\n%s", prefix, after, diff)
			}
		}
	}
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil || sorted[info.Size] != info.Name {
			t.Errorf("List: %+v, %v: wrong size", info, err)
		}
	}
}

func testListStops(t *testing.T, s archive.Store) {
	for i := range 10 {
		put(t, s, fmt.Sprintf("d/%d", i), "")
	}
	n := 0
	for range s.List(t.Context(), "", "") {
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Errorf("%d objects seen, want 3", n)
	}
}

func testDelete(t *testing.T, s archive.Store) {
	put(t, s, "a/b/c", "one")
	put(t, s, "a/b2", "stays")
	for range 2 { // the second time it is absent, which is no error
		if err := s.Delete(t.Context(), "a/b/c"); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if _, err := s.Stat(t.Context(), "a/b/c"); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("after Delete: %v, want ErrNotExist", err)
	}
	if diff := cmp.Diff([]string{"a/b2"}, list(t, s, "", "")); diff != "" {
		t.Errorf("after Delete (-want +got):\n%s", diff)
	}
	put(t, s, "a/b/c", "two")
	if got := getRange(t, s, "a/b/c", 0, -1); got != "two" {
		t.Errorf("put again after Delete: %q", got)
	}
}

func testDeleteBesidePut(t *testing.T, s archive.Store) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				name := fmt.Sprintf("busy/dir/%d-%d", i, j)
				if err := s.Put(t.Context(), name, strings.NewReader(name)); err != nil {
					t.Errorf("Put(%s): %v", name, err)
				}
				if err := s.Delete(t.Context(), name); err != nil {
					t.Errorf("Delete(%s): %v", name, err)
				}
			}
		})
	}
	wg.Wait()
	if got := list(t, s, "", ""); len(got) != 0 {
		t.Errorf("left over: %q", got)
	}
}

func testBig(t *testing.T, s archive.Store) {
	body := make([]byte, 5<<20+7)
	rand.NewChaCha8([32]byte{1}).Read(body)
	if err := s.Put(t.Context(), "big", iotest.HalfReader(bytes.NewReader(body))); err != nil {
		t.Fatal(err)
	}
	if got := getRange(t, s, "big", 0, -1); got != string(body) {
		t.Error("a big object comes back changed")
	}
	if got := getRange(t, s, "big", 5<<20, 100); got != string(body[5<<20:]) {
		t.Error("the end of a big object comes back changed")
	}
}

func testOddNames(t *testing.T, s archive.Store) {
	ctx := t.Context()
	for _, name := range []string{
		"", "/", "/abs", "a/", "a//b", ".", "..", "../x", "a/../b", "a/./b", ".hidden", "a/.tmp/b",
		"with space", "a\nb", "a\x00b", `a\b`, "ä", "a~b", "a*b", strings.Repeat("x", 256), strings.Repeat("abcdefg/", 200) + "x",
	} {
		if err := s.Put(ctx, name, strings.NewReader("x")); err == nil {
			t.Errorf("Put(%q) is accepted", name)
		}
		if _, err := s.Get(ctx, name, 0, -1); err == nil || errors.Is(err, archive.ErrNotExist) {
			t.Errorf("Get(%q): %v, want a refusal", name, err)
		}
		if _, err := s.Stat(ctx, name); err == nil || errors.Is(err, archive.ErrNotExist) {
			t.Errorf("Stat(%q): %v, want a refusal", name, err)
		}
		if s.Delete(ctx, name) == nil || s.Confirm(ctx, name) == nil {
			t.Errorf("Delete or Confirm(%q) is accepted", name)
		}
	}
	if got := list(t, s, "", ""); len(got) != 0 {
		t.Errorf("refused names left %q", got)
	}
}

func testCancel(t *testing.T, s archive.Store) {
	put(t, s, "there", "x")
	why := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	body := io.MultiReader(strings.NewReader("half"), readerFunc(func([]byte) (int, error) {
		cancel(why)
		return 0, nil
	}))
	if err := s.Put(ctx, "halfway", body); !errors.Is(err, why) {
		t.Errorf("Put cancelled halfway: %v, want the cause", err)
	}
	if _, err := s.Stat(t.Context(), "halfway"); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("after a cancelled Put: %v, want ErrNotExist", err)
	}
	_, get := s.Get(ctx, "there", 0, -1)
	_, stat := s.Stat(ctx, "there")
	var listed error
	for _, err := range s.List(ctx, "", "") {
		listed = err
	}
	for op, err := range map[string]error{
		"Put": s.Put(ctx, "new", strings.NewReader("x")), "Get": get, "Stat": stat, "List": listed,
		"Delete": s.Delete(ctx, "there"), "Confirm": s.Confirm(ctx, "there"),
	} {
		if !errors.Is(err, why) {
			t.Errorf("%s with an ended context: %v, want the cause", op, err)
		}
	}
	if diff := cmp.Diff([]string{"there"}, list(t, s, "", "")); diff != "" {
		t.Errorf("operations with an ended context changed something (-want +got):\n%s", diff)
	}
}
