package backup

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// tarRecord notes what a scanner finds.
type tarRecord struct {
	Entries []string
	raw     bytes.Buffer
}

func (r *tarRecord) entry(hdr *tar.Header, raw []byte) error {
	r.Entries = append(r.Entries, fmt.Sprintf("%s %c ", hdr.Name, hdr.Typeflag))
	r.raw.Write(raw)
	return nil
}

func (r *tarRecord) content(p []byte) error {
	r.Entries[len(r.Entries)-1] += string(p)
	r.raw.Write(p)
	return nil
}

func (r *tarRecord) padding(p []byte) error {
	r.raw.Write(p)
	return nil
}

func makeTar(t interface{ Fatal(...any) }, files map[string]string, names []string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		hdr := &tar.Header{Name: name, Size: int64(len(files[name])), Mode: 0o600, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if strings.HasSuffix(name, "/") {
			hdr.Typeflag = tar.TypeDir
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

// However a stream is cut into messages, the scanner finds what archive/tar
// finds and passes every byte but the zeros at the end.
func TestTarScannerAgreesWithArchiveTar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		files := rapid.MapOf(
			rapid.StringMatching(`(\./)?[a-z' ]{1,8}(/[a-z' ]{1,8})?/?`),
			rapid.StringOfN(rapid.RuneFrom([]rune("xy\x00")), 0, 1600, -1),
		).Draw(t, "files")
		var names []string
		for name := range files {
			if strings.HasSuffix(name, "/") {
				files[name] = ""
			}
			names = append(names, name)
		}
		stream := makeTar(t, files, names)
		var got tarRecord
		s := tarScanner{sink: &got}
		for rest := stream; len(rest) > 0; {
			n := rapid.IntRange(1, min(len(rest), 1500)).Draw(t, "message")
			if err := s.write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		var want []string
		for r := tar.NewReader(bytes.NewReader(stream)); ; {
			hdr, err := r.Next()
			if err == io.EOF {
				break
			}
			body, err2 := io.ReadAll(r)
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			want = append(want, fmt.Sprintf("%s %c %s", path.Clean(hdr.Name), hdr.Typeflag, body))
		}
		if diff := cmp.Diff(want, got.Entries); diff != "" {
			t.Fatalf("entries (-archive/tar +scanner):\n%s", diff)
		}
		if !bytes.Equal(got.raw.Bytes(), stream[:len(stream)-2*tarBlock]) {
			t.Fatal("the bytes passed on are not those that came")
		}
	})
}

func TestTarScannerRefuses(t *testing.T) {
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
		"more behind":    {append(bytes.Clone(good), good...), "behind its end"},
		"cut in header":  {good[:511], "cut off"},
		"cut in content": {good[:513], "cut off"},
		"cut in padding": {good[:1023], "cut off"},
		"upwards":        {header(func(h *tar.Header) { h.Name = "a/../../b" }), "leads out"},
		"absolute":       {header(func(h *tar.Header) { h.Name = "/a" }), "leads out"},
		"link":           {header(func(h *tar.Header) { h.Typeflag, h.Linkname = tar.TypeSymlink, "/etc" }), "neither file nor directory"},
		"device":         {header(func(h *tar.Header) { h.Typeflag = tar.TypeBlock }), "neither file nor directory"},
		"long name":      {header(func(h *tar.Header) { h.Name = strings.Repeat("n", 120) }), "tar header"},
	} {
		s := tarScanner{sink: &tarRecord{}}
		err := s.write(c.stream)
		if err == nil {
			err = s.close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
}

// Sizes of 8 GiB and more are written in binary.
func TestTarScannerHugeFile(t *testing.T) {
	var b bytes.Buffer
	hdr := &tar.Header{Name: "huge", Mode: 0o600, Typeflag: tar.TypeReg, Size: 9<<30 + 1, Format: tar.FormatGNU}
	if err := tar.NewWriter(&b).WriteHeader(hdr); err != nil {
		t.Fatal(err)
	}
	s := tarScanner{sink: &tarRecord{}}
	if err := s.write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if s.content != 9<<30+1 || s.padding != tarBlock-1 {
		t.Errorf("%d bytes and %d of padding to come", s.content, s.padding)
	}
}
