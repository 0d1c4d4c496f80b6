package unpack

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The programs that DBAs compress with are the oracle.
func TestOpenReadsWhatProgramsWrite(t *testing.T) {
	plain := make([]byte, 3<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	for i := 0; i < len(plain); i += 8192 { // half of it compresses
		if _, err := rnd.Read(plain[i : i+4096]); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		args []string
	}{
		{"gzip", []string{"-c"}}, {"lz4", []string{"-B4", "-c"}}, {"lz4", []string{"-9", "-B5", "-BD", "-c"}},
		{"zstd", []string{"-c"}}, {"zstd", []string{"-19", "--long=27", "-c"}}, {"cat", nil},
	} {
		cmd := exec.Command(c.name, c.args...)
		cmd.Stdin = bytes.NewReader(plain)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		path := filepath.Join(t.TempDir(), "000000010000000000000001")
		got, compressed, err := read(t, path, packed)
		if err != nil || !bytes.Equal(got, plain) || compressed != (c.name != "cat") {
			t.Errorf("%s %v: %d bytes of %d, compressed %v, error %v", c.name, c.args, len(got), len(plain), compressed, err)
		}
		if c.name == "cat" {
			continue
		}
		got, _, err = read(t, path, packed[:len(packed)/2])
		if err == nil || !bytes.HasPrefix(plain, got) || len(got) == 0 {
			t.Errorf("%s %v, cut in half: %d bytes, error %v", c.name, c.args, len(got), err)
		}
	}
}

func read(t *testing.T, path string, packed []byte) (got []byte, compressed bool, err error) {
	t.Helper()
	if err := os.WriteFile(path, packed, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err = io.ReadAll(r)
	return got, r.Compressed, err
}

func TestOpenShortAndMissing(t *testing.T) {
	got, compressed, err := read(t, filepath.Join(t.TempDir(), "x"), nil)
	if len(got) > 0 || compressed || err != nil {
		t.Errorf("empty file: %d bytes, compressed %v, error %v", len(got), compressed, err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("missing file: %v", err)
	}
	path := filepath.Join(t.TempDir(), "bad.gz")
	if err := os.WriteFile(path, []byte{0x1F, 0x8B, 0, 0}, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Error("a broken gzip header is accepted")
	}
}

func TestName(t *testing.T) {
	for name, want := range map[string]string{"a.gz": "a", "a.lz4": "a", "a.zst": "a", "a.partial": "a.partial", "a.tar.gz": "a.tar"} {
		if got := Name(name); got != want {
			t.Errorf("Name(%q) = %q, want %q", name, got, want)
		}
	}
}
