package archive_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
)

func TestGaps(t *testing.T) {
	a := newArchive(t)
	ctx := t.Context()
	first := archive.Gap{Timeline: 1, From: 0x1_0A00_1234, To: 0x1_0B00_0000}
	second := archive.Gap{Timeline: 0x1F, From: 0x200000, To: 0x300000}
	full := first
	full.Noticed, full.Reason = time.Unix(1_800_000_000, 0).UTC(), "it has been removed"
	for _, g := range []archive.Gap{second, full, first} { // the first one twice
		if err := a.PutGap(ctx, g); err != nil {
			t.Fatal(err)
		}
	}
	const name = "gaps/00000001-000000010A001234-000000010B000000.json"
	want := "{\n  \"timeline\": \"1\",\n  \"from_lsn\": \"1/A001234\",\n  \"to_lsn\": \"1/B000000\",\n  \"noticed\": \"2027-01-15T08:00:00Z\",\n  \"reason\": \"it has been removed\""
	want += fmt.Sprintf(",\n  \"crc32c\": \"%08x\"\n}\n", crc32.Checksum([]byte(want), crc32.MakeTable(crc32.Castagnoli)))
	r, err := a.Store().Get(ctx, name, 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if diff := cmp.Diff(want, string(body)); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for _, alien := range []string{"README", "00000001-2-3.json", "00000000-0000000000000001-0000000000000002.json",
		"00000001-0000000000000002-0000000000000001.json", "00000001-0000000000000001-0000000000000002.json.x"} {
		if err := a.Store().Put(ctx, archive.GapsPrefix+alien, strings.NewReader("{}")); err != nil {
			t.Fatal(err)
		}
	}
	gaps, err := a.Gaps(ctx)
	if diff := cmp.Diff([]archive.Gap{first, second}, gaps); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if !first.Overlaps(1, 0x1_0AFF_FFFF, 0x1_0C00_0000) || first.Overlaps(1, 0x1_0B00_0000, 0x1_0C00_0000) || first.Overlaps(2, 0, ^first.From) {
		t.Error("what overlaps the gap is not seen, or more than that")
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := a.Gaps(gone); err == nil {
		t.Error("an unfinished listing counts as all gaps")
	}
}
