package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/walstream/walstream/wal"
)

func TestAppendRuns(t *testing.T) {
	name := func(no uint64) string {
		return strings.TrimSuffix(strings.TrimPrefix(object(1, no), "wal/00000001/"), ".zst")
	}
	run := func(state string, first, last uint64, from, to wal.LSN, objects int64) walRun {
		return walRun{Timeline: 1, State: state, First: name(first), Last: name(last), Segments: last - first + 1, From: from, To: to, StoredBytes: objects}
	}
	for what, c := range map[string]struct {
		objects []string
		want    []walRun
	}{
		"none":    {nil, nil},
		"one":     {[]string{object(1, 3)}, []walRun{run("complete", 3, 3, 3<<20, 4<<20, 1)}},
		"several": {[]string{object(1, 3), object(1, 4), object(1, 5)}, []walRun{run("complete", 3, 5, 3<<20, 6<<20, 3)}},
		"hole": {[]string{object(1, 3), object(1, 6)}, []walRun{
			run("complete", 3, 3, 3<<20, 4<<20, 1), run("missing", 4, 5, 4<<20, 6<<20, 0), run("complete", 6, 6, 6<<20, 7<<20, 1)}},
		"tail": {[]string{object(1, 3), tail(1, 4, 0, 64), tail(1, 4, 0, 128)}, []walRun{
			run("complete", 3, 3, 3<<20, 4<<20, 1), run("tail", 4, 4, 4<<20, 4<<20+128, 2)}},
		"needless tail": {[]string{tail(1, 3, 0, 64), object(1, 3)}, []walRun{run("complete", 3, 3, 3<<20, 4<<20, 1)}},
		"tail alone":    {[]string{tail(1, 3, 0, 64)}, []walRun{run("tail", 3, 3, 3<<20, 3<<20+64, 1)}},
		"tail within": {[]string{object(1, 3), tail(1, 4, 0, 64), object(1, 5)}, []walRun{
			run("complete", 3, 3, 3<<20, 4<<20, 1), run("tail", 4, 4, 4<<20, 4<<20+64, 1), run("missing", 4, 4, 4<<20, 5<<20, 0), run("complete", 5, 5, 5<<20, 6<<20, 1)}},
		"whole tail within": {[]string{object(1, 3), tail(1, 4, 0, 1<<20), tail(1, 5, 0, 64), object(1, 5)}, []walRun{
			run("complete", 3, 3, 3<<20, 4<<20, 1), run("tail", 4, 4, 4<<20, 5<<20, 1), run("complete", 5, 5, 5<<20, 6<<20, 1)}},
	} {
		t.Run(what, func(t *testing.T) {
			got, err := appendRuns(t.Context(), nil, pinned(t, c.objects...), 1)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmpopts.IgnoreUnexported(walRun{}), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
