package fsx

import (
	"bytes"
	"path/filepath"
	"syscall"
	"testing"
)

// TestAllocate: the file has its size and its room at once, and reads as zeros.
func TestAllocate(t *testing.T) {
	const size = 1 << 20
	f, err := OS{}.Create(filepath.Join(t.TempDir(), "f"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Allocate(size); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks; info.Size() != size || blocks*512 < size {
		t.Errorf("%d bytes, %d of them on the disk", info.Size(), blocks*512)
	}
	buf := make([]byte, size)
	if _, err := f.ReadAt(buf, 0); err != nil || !bytes.Equal(buf, make([]byte, size)) {
		t.Errorf("not zeros, %v", err)
	}
}
