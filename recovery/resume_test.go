package recovery

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/hint"
)

// partsRead counts the parts of a backup that are read, and fails from one on.
type partsRead struct {
	archive.Store
	mu    sync.Mutex
	parts []string
	fail  int // after so many
}

func (s *partsRead) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if strings.Contains(name, "/data/") && n < 0 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.parts) >= s.fail {
			return nil, errors.New("connection reset")
		}
		s.parts = append(s.parts, filepath.Base(name))
	}
	return s.Store.Get(ctx, name, off, n)
}

// interrupted is a restore of which all but the last part is laid down.
func interrupted(t *testing.T) (m *made, cfg RestoreConfig, store *partsRead) {
	m = newMade(t)
	m.put(t)
	store = &partsRead{Store: m.store, fail: 2}
	m.store = store
	cfg = m.config(t)
	cfg.Jobs = 1
	err := m.plan.Execute(t.Context(), cfg)
	if err == nil || !strings.Contains(strings.Join(hint.Of(err), "\n"), "go on with what is missing: walstream restore --backup 20261122T010003Z --target-timeline 1 DIR") {
		t.Fatalf("%v, %q", err, hint.Of(err))
	}
	store.parts, store.fail = nil, 9
	return m, cfg, store
}

// restoredFiles is all that was restored, but for what depends on the place.
func restoredFiles(t *testing.T, cfg RestoreConfig) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range append([]string{cfg.Dir}, filepath.Join(filepath.Dir(cfg.Dir), "space")) {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || e.Name() == "backup_manifest" { // with the test's name in it
				return err
			}
			body, err := os.ReadFile(path)
			info, ierr := e.Info()
			path = strings.TrimPrefix(path, filepath.Dir(cfg.Dir))
			all[path] = strings.ReplaceAll(string(body), filepath.Dir(cfg.Dir), "") + info.Mode().String()
			return errors.Join(err, ierr)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// An interrupted restore goes on where it stopped, with what was damaged or
// lost meanwhile laid down again, and ends as if nothing had happened.
func TestExecuteResumes(t *testing.T) {
	fresh := newMade(t)
	fresh.put(t)
	whole := fresh.config(t)
	if err := fresh.plan.Execute(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	want := restoredFiles(t, whole)
	at := func(name string) func(cfg RestoreConfig) string {
		return func(cfg RestoreConfig) string { return filepath.Join(cfg.Dir, name) }
	}
	for name, c := range map[string]struct {
		path  func(RestoreConfig) string
		body  string // "" removes it
		parts string
	}{
		"untouched": {at("recovery.signal"), "x", "000003.tar.zst"}, // of a later step
		"damaged":   {at("base/1/1259"), strings.Repeat("egap", 5000), "000001.tar.zst 000003.tar.zst"},
		"lost in a tablespace": {func(cfg RestoreConfig) string {
			return filepath.Join(filepath.Dir(cfg.Dir), "space/PG_15_202209061/5/16386")
		}, "", "000002.tar.zst 000003.tar.zst"},
		"half a part": {at(heldBack), "half", "000003.tar.zst"},
		"cut list":    {func(cfg RestoreConfig) string { return filepath.Join(SideDir(cfg.Dir), partsFile) }, "\n{\"part\":\"backup/", "000001.tar.zst 000002.tar.zst 000003.tar.zst"},
	} {
		t.Run(name, func(t *testing.T) {
			m, cfg, store := interrupted(t)
			err := os.Remove(c.path(cfg))
			if c.body != "" {
				err = os.WriteFile(c.path(cfg), []byte(c.body), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := m.plan.Check(cfg); err != nil {
				t.Errorf("a dry run says %v", err)
			}
			var done int64
			cfg.Progress = func(d, _ int64) { done = d }
			if err := m.plan.Execute(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(store.parts, " "); got != c.parts {
				t.Errorf("read %s, want %s", got, c.parts)
			}
			if done != m.plan.Backup.PlainBytes {
				t.Errorf("progress ends at %d of %d", done, m.plan.Backup.PlainBytes)
			}
			if diff := cmp.Diff(want, restoredFiles(t, cfg)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The command that goes on says what a relative time was, and is the same for
// the plan that it makes.
func TestPlanAgain(t *testing.T) {
	at := time.Date(2026, 11, 22, 9, 41, 0, 500, time.FixedZone("", 3600))
	for want, target := range map[string]Target{
		"walstream restore --backup B --target-timeline 3 DIR":                                                               {},
		"walstream restore --backup B --target-timeline 3 --target-time 2026-11-22T08:41:00.0000005Z --target-exclusive DIR": {Kind: KindTime, Time: at, Exclusive: true},
		"walstream restore --backup B --target-timeline 3 --target-lsn 0/A0 DIR":                                             {Kind: KindLSN, LSN: 0xA0},
		"walstream restore --backup B --target-timeline 3 --target-xid 7 DIR":                                                {Kind: KindXID, XID: 7},
		"walstream restore --backup B --target-timeline 3 --target-name 'a b' DIR":                                           {Kind: KindName, Name: "a b"},
		"walstream restore --backup B --target-timeline 3 --target-immediate DIR":                                            {Kind: KindImmediate},
	} {
		p := testPlan(target)
		p.Backup.ID = "B"
		if got := p.again(nil); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		p.Target.Time, p.Target.Backup, p.Target.Timeline = target.Time.UTC(), "B", TargetTimeline{Number: 3}
		if got := p.again(nil); got != want {
			t.Errorf("the second time %s", got)
		}
	}
	if got := testPlan(Target{}).again(&Standby{}); strings.Contains(got, "--target") {
		t.Errorf("a standby: %s", got)
	}
}

// Another backup or target, and a directory that is somebody else's by now, are
// left alone.
func TestResumeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(m *made, cfg *RestoreConfig) error
		want string
	}{
		"other target": {func(m *made, _ *RestoreConfig) error { m.plan.Target = Target{Kind: KindImmediate}; return nil }, "an earlier restore, of backup 20261122T010003Z to the end of WAL, was interrupted there"},
		"other backup": {func(m *made, _ *RestoreConfig) error { m.plan.Backup.ID = "20261123T010003Z"; return nil }, "an earlier restore"},
		"other owner": {func(_ *made, cfg *RestoreConfig) error {
			return os.WriteFile(filepath.Join(cfg.Dir, "precious"), nil, 0o600)
		}, "precious is not of the restore"},
		"other cluster": {func(_ *made, cfg *RestoreConfig) error {
			return errors.Join(os.Remove(filepath.Join(cfg.Dir, "backup_label")), os.WriteFile(filepath.Join(cfg.Dir, controlfile.Path), nil, 0o600))
		}, "an earlier restore"},
	} {
		t.Run(name, func(t *testing.T) {
			m, cfg, store := interrupted(t)
			m.plan.Backup.Parts = append([]backup.Part(nil), m.plan.Backup.Parts...)
			if err := c.harm(m, &cfg); err != nil {
				t.Fatal(err)
			}
			before := tree(t, filepath.Dir(cfg.Dir))
			err := m.plan.Execute(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if removes := strings.Contains(strings.Join(hint.Of(err), "\n"), "rm -rf"); removes == (name == "other owner") {
				t.Errorf("hints %q", hint.Of(err))
			}
			if diff := cmp.Diff(before, tree(t, filepath.Dir(cfg.Dir))); diff != "" || len(store.parts) > 0 {
				t.Errorf("read %s, changed %s", store.parts, diff)
			}
		})
	}
}
