package recovery

import (
	"path/filepath"
	"strings"
	"testing"
)

// A backup that does not fit is refused before the first byte: data directory
// and tablespaces on one file system count together.
func TestExecuteNeedsSpace(t *testing.T) {
	m := newMade(t)
	m.put(t)
	cfg := m.config(t)
	fs, err := FileSystemOf(filepath.Join(cfg.Dir, "not", "there"))
	if err != nil || fs.Free < 1<<20 {
		t.Fatalf("%+v, %v", fs, err)
	}
	spaces := map[uint32]bool{}
	for i := range m.plan.Backup.Parts {
		part := &m.plan.Backup.Parts[i]
		part.PlainBytes = 0
		if !spaces[part.Tablespace] {
			part.PlainBytes = fs.Free/2 + 1<<33 // others write and delete meanwhile
		}
		spaces[part.Tablespace] = true
	}
	if len(spaces) < 2 {
		t.Fatal("weak test: no tablespace")
	}
	before := tree(t, filepath.Dir(cfg.Dir))
	for what, err := range map[string]error{"check": m.plan.Check(cfg), "execute": m.plan.Execute(t.Context(), cfg)} {
		if err == nil || !strings.Contains(err.Error(), "MiB free, and the backup needs") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after := tree(t, filepath.Dir(cfg.Dir)); len(after) != len(before) {
		t.Errorf("something was written: %s", after)
	}
	for i := range m.plan.Backup.Parts {
		m.plan.Backup.Parts[i].PlainBytes = fs.Free / int64(4*len(m.plan.Backup.Parts))
	}
	if err := m.plan.Check(cfg); err != nil {
		t.Errorf("a quarter of what is free: %v", err)
	}
}
