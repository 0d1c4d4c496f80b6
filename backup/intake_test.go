package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit/memstore"
)

// takeIn passes a tar stream, of which each read gives at most size bytes, and
// lists what is stored: the entries, and what was noted of the files.
func takeIn(t testing.TB, stream []byte, size int) (stored []string, files map[string]fileSum, err error) {
	t.Helper()
	w := newParts(t, memstore.New())
	in := newIntake(w, 4<<10)
	parts, err := w.finish(entries(&pieces{stream, size}, in.add))
	if err != nil {
		return nil, nil, err
	}
	for _, p := range parts {
		body, err := archive.ReadAll(t.Context(), w.arch.Store(), p.Name, -1)
		if err != nil {
			t.Fatal(err)
		}
		dec, err := zstd.NewReader(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, listTar(t, dec)...)
		dec.Close()
	}
	return stored, in.files, nil
}

// pieces reads at most size bytes at once.
type pieces struct {
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// listTar is what archive/tar finds in a stream.
func listTar(t testing.TB, r io.Reader) (list []string) {
	t.Helper()
	for stream := tar.NewReader(r); ; {
		h, err := stream.Next()
		if err == io.EOF {
			return list
		}
		body, err2 := io.ReadAll(stream)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		list = append(list, fmt.Sprintf("%s %c %o %d:%s %d:%s %s %s", path.Clean(h.Name), h.Typeflag, h.Mode, h.Uid, h.Uname, h.Gid, h.Gname, h.ModTime.UTC(), body))
	}
}

func makeTar(t interface{ Fatal(...any) }, files map[string]string, names []string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		hdr := &tar.Header{
			Name: name, Size: int64(len(files[name])), Mode: 0o600, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR,
			Uid: 26, Gid: 27, Uname: "postgres", Gname: "dba", ModTime: time.Unix(1700000000, 0),
		}
		if strings.HasSuffix(name, "/") {
			hdr.Typeflag = tar.TypeDir
		}
		if strings.Contains(name, "é") { // which PostgreSQL writes as it is
			hdr.Format = tar.FormatGNU
		}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// However a stream is cut into messages, what is stored has its entries, and
// each file its checksum.
func TestIntake(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		files := rapid.MapOf(
			rapid.StringMatching(`(\./)?[a-z' é]{1,8}(/[a-z' ]{1,8})?/?`),
			rapid.StringOfN(rapid.RuneFrom([]rune("xy\x00")), 0, 1600, -1),
		).Draw(rt, "files")
		var names []string
		clean := map[string]bool{}
		for name := range files {
			if clean[path.Clean(name)] {
				continue
			}
			clean[path.Clean(name)] = true
			if strings.HasSuffix(name, "/") {
				files[name] = ""
			}
			names = append(names, name)
		}
		stream := makeTar(rt, files, names)
		got, sums, err := takeIn(t, stream, rapid.IntRange(1, 1500).Draw(rt, "message"))
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(listTar(t, bytes.NewReader(stream)), got); diff != "" {
			rt.Fatalf("entries (-sent +stored):\n%s", diff)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "/") {
				continue
			}
			sum := newCRC32C()
			_, _ = io.WriteString(sum, files[name])
			if s := sums[path.Clean(name)]; s.size != int64(len(files[name])) || !bytes.Equal(s.sum, sum.Sum(nil)) {
				rt.Errorf("%s: noted %+v", name, s)
			}
		}
	})
}

func TestIntakeRefuses(t *testing.T) {
	good := makeTar(t, map[string]string{"a": "content"}, []string{"a"})
	header := func(change func(*tar.Header)) []byte {
		var b bytes.Buffer
		hdr := &tar.Header{Name: "a", Mode: 0o600, Typeflag: tar.TypeReg, Format: tar.FormatGNU}
		change(hdr)
		if err := tar.NewWriter(&b).WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	damaged := bytes.Clone(good)
	damaged[0] ^= 1
	for name, c := range map[string]struct {
		stream []byte
		want   string
	}{
		"damaged header": {damaged, "tar header"},
		"cut in header":  {good[:511], "unexpected EOF"},
		"cut in content": {good[:513], "unexpected EOF"},
		"twice":          {makeTar(t, map[string]string{"a": "content"}, []string{"a", "a"}), "sent twice"},
		"upwards":        {header(func(h *tar.Header) { h.Name = "a/../../b" }), "leads out"},
		"absolute":       {header(func(h *tar.Header) { h.Name = "/a" }), "leads out"},
		"link":           {header(func(h *tar.Header) { h.Typeflag, h.Linkname = tar.TypeSymlink, "/etc" }), "neither file nor directory"},
		"device":         {header(func(h *tar.Header) { h.Typeflag = tar.TypeBlock }), "neither file nor directory"},
	} {
		_, _, err := takeIn(t, c.stream, len(c.stream))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
}

// Sizes of 8 GiB and more do not fit into the oldest form of a header.
func TestIntakeHugeFile(t *testing.T) {
	var b bytes.Buffer
	h := &tar.Header{Name: "huge", Mode: 0o600, Typeflag: tar.TypeReg, Size: 9<<30 + 1, Format: tar.FormatGNU}
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, _, err := takeIn(t, b.Bytes(), 512); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v, want it to miss only the contents", err)
	}
}

// A control file that was torn is no backup.
func TestTornControlFile(t *testing.T) {
	var stream bytes.Buffer
	w := tar.NewWriter(&stream)
	if err := w.WriteHeader(&tar.Header{Name: controlfile.Path, Size: controlfile.Size, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte{1}, controlfile.Size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := takeIn(t, stream.Bytes(), 512); err == nil || !strings.Contains(err.Error(), "CRC is wrong") || len(hint.Of(err)) == 0 {
		t.Errorf("%v", err)
	}
}
