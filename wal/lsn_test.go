package wal_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/walstream/walstream/wal"
)

func TestParseLSN(t *testing.T) {
	for in, want := range map[string]struct {
		lsn  wal.LSN
		text string
	}{
		"0/0": {0, "0/0"}, "16/B374D848": {0x16B374D848, "16/B374D848"}, "16/b374d848": {0x16B374D848, "16/B374D848"},
		"FFFFFFFF/FFFFFFFF": {1<<64 - 1, "FFFFFFFF/FFFFFFFF"}, "1/00000028": {0x100000028, "1/28"},
	} {
		got, err := wal.ParseLSN(in)
		if err != nil || got != want.lsn || got.String() != want.text {
			t.Errorf("%q is %s (%v), want %s", in, got, err, want.text)
		}
	}
	for _, in := range []string{"", "/", "1", "1/", "/1", "1/2/3", " 1/2", "1/2 ", "1/2x", "-1/2", "123456789/0", "0/123456789", "0x1/2"} {
		if got, err := wal.ParseLSN(in); err == nil {
			t.Errorf("%q was read as %s", in, got)
		}
	}
}

func FuzzParseLSN(f *testing.F) {
	f.Add("16/B374D848")
	f.Fuzz(func(t *testing.T, in string) {
		l, err := wal.ParseLSN(in)
		if err != nil {
			return
		}
		if back, err := wal.ParseLSN(l.String()); err != nil || back != l {
			t.Errorf("%q is %s, which is read as %s (%v)", in, l, back, err)
		}
	})
}

func TestLSNInJSON(t *testing.T) {
	b, err := json.Marshal(wal.Carry{Start: 0x16B374D848, Head: []byte{1}})
	if err != nil || string(b) != `{"start":"16/B374D848","prev":"0/0","total":0,"have":0,"crc":0,"head":"AQ=="}` {
		t.Errorf("%s (%v)", b, err)
	}
	var c wal.Carry
	if err := json.Unmarshal([]byte(`{"start":"no LSN"}`), &c); err == nil {
		t.Error("no LSN was read as one")
	}
}

func TestTimeline(t *testing.T) {
	got, err := wal.ParseTimeline("10")
	if err != nil || got != 10 || got.String() != "10" || got.Hex() != "0000000A" {
		t.Errorf("%s, %s (%v)", got, got.Hex(), err)
	}
	for _, in := range []string{"", "0", "-1", "A", "4294967296", "1 "} {
		if got, err := wal.ParseTimeline(in); err == nil {
			t.Errorf("%q was read as %s", in, got)
		}
	}
}

func TestTimelineInJSON(t *testing.T) {
	type view struct {
		Timeline wal.Timeline            `json:"timeline"`
		Parent   wal.Timeline            `json:"parent,omitempty"`
		Notes    map[wal.Timeline]string `json:"notes,omitempty"`
	}
	for _, want := range []view{{}, {Timeline: 10}, {Timeline: 1<<32 - 1, Parent: 9, Notes: map[wal.Timeline]string{2: "x"}}} {
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got view
		if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s was read as %+v (%v)", b, got, err)
		}
	}
	if b, err := json.Marshal(view{Timeline: 10, Parent: 9}); err != nil || string(b) != `{"timeline":"10","parent":"9"}` {
		t.Errorf("%s (%v)", b, err)
	}
	for _, in := range []string{`10`, `"A"`, `""`, `"00"`, `"-1"`} {
		var got wal.Timeline
		if err := json.Unmarshal([]byte(in), &got); err == nil {
			t.Errorf("%s was read as %s", in, got)
		}
	}
}
