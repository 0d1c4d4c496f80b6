package backup

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
)

// FuzzIntake: wherever a tar stream is cut, the same is stored of it.
func FuzzIntake(f *testing.F) {
	good := makeTar(f, map[string]string{"base/1": "some contents"}, []string{"base/", "base/1", "PG_VERSION"})
	f.Add(good, 1)
	f.Add(good[:700], 511)
	f.Add(append(bytes.Clone(good), good...), 1000)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		size = 1 + (size&0xFFFF)%(len(in)+1)
		whole, _, werr := takeIn(t, in, len(in)+1)
		pieces, _, perr := takeIn(t, in, size)
		if fmt.Sprint(werr) != fmt.Sprint(perr) {
			t.Fatalf("whole: %v, in pieces of %d: %v", werr, size, perr)
		}
		if diff := cmp.Diff(whole, pieces); diff != "" {
			t.Error(diff)
		}
	})
}

// FuzzStream: whatever a server puts into its messages, reading them ends
// without a panic, and contents pass unchanged.
func FuzzStream(f *testing.F) {
	f.Add([]byte("n16385.tar\x00/space\x00\xFFdabc\xFFp\x00\xFFm"), true)
	f.Add([]byte("nbase.tar\x00\x00\xFFd"), true)
	f.Add([]byte("abc\xFFd"), false)
	f.Fuzz(func(t *testing.T, in []byte, newer bool) {
		good, major := answer(), 15
		if !newer {
			good, major = oldAnswer(), 14
		}
		var messages script
		messages = append(messages, good[:9]...)
		for part := range bytes.SplitSeq(in, []byte{0xFF}) {
			messages = append(messages, &pgproto3.CopyData{Data: part})
		}
		messages = append(messages, good[13:]...)
		s := &stream{major: major, conn: scripted(t, messages)}
		kinds, end, _, err := readAll(t, s)
		if err == nil && (end.lsn < s.begin.lsn || newer && strings.Trim(in0(in), "ndpm") != "") {
			t.Errorf("%q is accepted as %q, from %v to %v", in, kinds, s.begin, end)
		}
	})
}

// in0 is the first byte of each message.
func in0(in []byte) string {
	var first []byte
	for part := range bytes.SplitSeq(in, []byte{0xFF}) {
		first = append(first, part[:min(1, len(part))]...)
	}
	return string(first)
}

// FuzzLabel: what is accepted of a backup_label says where the backup began.
func FuzzLabel(f *testing.F) {
	f.Add("START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n" +
		"BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-22 01:00:04 CET\nLABEL: x\nSTART TIMELINE: 1\n")
	f.Add("START WAL LOCATION: \nSTART TIMELINE: -1\n")
	f.Fuzz(func(t *testing.T, body string) {
		l, err := parseLabel(body)
		if err == nil && (l.start.lsn == 0 || l.start.timeline == 0 || l.started == "") {
			t.Errorf("accepted as %+v", l)
		}
	})
}

// FuzzTablespaceMap: what is read and written again is the same.
func FuzzTablespaceMap(f *testing.F) {
	f.Add("16384 /a b\n16385 /c\\\\d\\\ne\n")
	f.Add("16384 /a\r\n")
	f.Add("1")
	f.Fuzz(func(t *testing.T, body string) {
		list, err := ParseTablespaceMap(body)
		if err != nil {
			return
		}
		back, err := ParseTablespaceMap(FormatTablespaceMap(list))
		if diff := cmp.Diff(list, back); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}
