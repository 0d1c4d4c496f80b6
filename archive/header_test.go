package archive

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzHeader: a header of any contents under a right checksum is refused or
// read, and what is read can be written and read again.
func FuzzHeader(f *testing.F) {
	frame, err := marshalHeader(&Header{Timeline: 1, To: 100, SHA256: "00"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame[headSize:])
	f.Add([]byte(`{"timeline":"4294967296","from":-1,"carry":{}}`))
	f.Add([]byte(`{"start_lsn":"FFFFFFFF/FFFFFFFF","running_max":"2026-11-22T00:00:00Z"}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, body []byte) {
		head := binary.LittleEndian.AppendUint32(nil, headMagic)
		head = binary.LittleEndian.AppendUint32(head, uint32(headSize-8+len(body)))
		head = append(head, signature...)
		head = binary.LittleEndian.AppendUint32(head, 0)
		binary.LittleEndian.PutUint32(head[16:], headerCRC(head, body))
		h, err := parseHeader("x", append(head, body...))
		if err != nil {
			return
		}
		again, err := marshalHeader(h)
		if err != nil {
			return // for instance a year that RFC 3339 does not have
		}
		back, err := parseHeader("x", again)
		if diff := cmp.Diff(h, back); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}
