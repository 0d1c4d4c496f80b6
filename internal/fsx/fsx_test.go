package fsx_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/testkit/memfs"
)

// TestWriteFileIsAllOrNothing cuts the power at every step of the helpers that
// everything durable is built of.
func TestWriteFileIsAllOrNothing(t *testing.T) {
	m := memfs.New()
	done, cuts := "", 0
	m.OnOp = func(op fsx.Op) error {
		cuts++
		crashed := m.CrashCloneKeeping(rand.New(rand.NewPCG(uint64(cuts), 3)))
		got, err := fsx.ReadFile(crashed, "/a/b/f")
		if err != nil && (done != "" || !errors.Is(err, fs.ErrNotExist)) {
			t.Errorf("before %v: %v", op, err)
		}
		if err == nil && string(got) != "one" && string(got) != "two" || done == "two" && string(got) != "two" {
			t.Errorf("before %v: the file holds %q, %q was written", op, got, done)
		}
		return nil
	}
	if err := fsx.MkdirAll(m, "/a/b", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"one", "two"} {
		if err := fsx.WriteFile(m, "/a/b/f", []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		done = body
	}
	if err := fsx.SyncParents(m, "/a/b"); err != nil {
		t.Fatal(err)
	}
	if cuts < 14 {
		t.Errorf("only %d operations", cuts)
	}
}

func TestWriteFileReportsEachError(t *testing.T) {
	for op := 1; ; op++ {
		m := memfs.New()
		n := 0
		m.OnOp = func(o fsx.Op) error {
			if n++; n == op {
				return syscall.EIO
			}
			return nil
		}
		err := fsx.WriteFile(m, "/f", []byte("x"), 0o600)
		if n < op {
			if err != nil {
				t.Error(err)
			}
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("operation %d failed, WriteFile = %v", op, err)
		}
	}
}

func TestMkdirAllTakesBackWhatItCannotSync(t *testing.T) {
	m := memfs.New()
	m.OnOp = func(op fsx.Op) error {
		if op.Kind == fsx.OpSyncDir {
			return syscall.EIO
		}
		return nil
	}
	if err := fsx.MkdirAll(m, "/a/b", 0o700); !errors.Is(err, syscall.EIO) {
		t.Errorf("MkdirAll = %v", err)
	}
	m.OnOp = nil
	if err := fsx.MkdirAll(m, "/a/b", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := m.CrashClone().Stat("/a/b"); err != nil {
		t.Error(err)
	}
	if err := fsx.MkdirAll(m, "/a/b", 0o700); err != nil {
		t.Errorf("the second time: %v", err)
	}
}
