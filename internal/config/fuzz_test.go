package config

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLoad: any file is read or refused with its problems, and what is read
// has a value for every key.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(Example()))
	f.Add([]byte("archive: [\n"))
	f.Add([]byte("a: &a\n  b: *a\n<<: *a\n"))
	f.Add([]byte("archive: /a\narchive: /b\n"))
	f.Add([]byte("restore_retry: -1s\nspool: {dir: 1}\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		name := filepath.Join(t.TempDir(), "walstream.yml")
		if err := os.WriteFile(name, body, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Load(Sources{File: name, Dir: "/"})
		var wrong *Error
		switch {
		case err == nil && len(l.Values) != len(Keys()):
			t.Errorf("%d values for %d keys", len(l.Values), len(Keys()))
		case err != nil && (!errors.As(err, &wrong) || len(wrong.Problems) == 0):
			t.Errorf("not refused with problems: %v", err)
		}
	})
}
