package recovery

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/backup"
	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit/memstore"
)

// made is a backup made by hand, so that each of its details can be wrong.
type made struct {
	store  archive.Store
	plan   *Plan
	files  [3]map[string]string // of three parts; the second is tablespace 16385
	listed map[string]string    // what backup_manifest lists
	parts  func(i int, tar []byte) []byte
	extra  []tar.Header // put into the first part
}

func controlBody() string {
	b := make([]byte, 8192)
	le := binary.LittleEndian
	le.PutUint64(b, testCluster.SystemIdentifier)
	le.PutUint32(b[8:], 1300)
	for i, v := range []uint32{123, 9, 11, 12, 65} {
		le.PutUint32(b[180+4*i:], v)
	}
	le.PutUint32(b[228:], uint32(testSize))
	le.PutUint32(b[288:], crc32.Checksum(b[:288], crc32.MakeTable(crc32.Castagnoli)))
	return string(b)
}

func newMade(t *testing.T) *made {
	m := &made{store: memstore.New()}
	m.files[0] = map[string]string{
		"PG_VERSION": "15\n", "base/1/1259": strings.Repeat("page", 5000), "backup_label": "START WAL LOCATION: 0/100028\n",
		"postgresql.auto.conf": "archive_mode = 'on'\nwork_mem = '8MB'\n", "standby.signal": "", "tablespace_map": "16385 " + m.space(t) + "\n",
	}
	m.files[1] = map[string]string{"PG_15_202209061/5/16386": "in a tablespace"}
	m.files[2] = map[string]string{"global/1262": "databases", "global/pg_control": controlBody()}
	m.listed = maps.Clone(m.files[0])
	maps.Copy(m.listed, m.files[2])
	m.listed["pg_tblspc/16385/PG_15_202209061/5/16386"] = "in a tablespace"
	m.plan = testPlan(Target{})
	m.plan.Timeline = 1
	m.plan.Identity = testCluster
	m.plan.Backup = backup.Commit{
		FormatVersion: 1, ID: "20261122T010003Z", Identity: testCluster, Timeline: 1, StartTimeline: 1, StartLSN: 0x100028, StopLSN: 0x100200,
		Tablespaces: []backup.Tablespace{{OID: 16385, Location: m.space(t)}},
	}
	return m
}

func (m *made) space(t *testing.T) string {
	return filepath.Join(os.TempDir(), "walstream-space-"+t.Name())
}

// put stores the backup.
func (m *made) put(t *testing.T) {
	t.Helper()
	enc, _ := zstd.NewWriter(nil)
	for i, files := range m.files {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, dir := range []string{"base", "base/1", "global", "pg_wal", "pg_tblspc"} {
			if i == 0 {
				w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o750})
			}
		}
		if i == 0 {
			for _, h := range m.extra {
				w.WriteHeader(&h)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o640, Size: int64(len(files[name]))})
			w.Write([]byte(files[name]))
		}
		w.Close()
		part := backup.Part{Name: backup.PartName(m.plan.Backup.ID, i+1), PlainBytes: int64(b.Len()), Control: i == 2}
		if i == 1 {
			part.Tablespace = 16385
		}
		stored := enc.EncodeAll(b.Bytes(), nil)
		sum := sha256.Sum256(stored)
		part.SHA256 = hex.EncodeToString(sum[:])
		if m.parts != nil {
			stored = m.parts(i, stored)
		}
		m.object(t, part.Name, stored)
		m.plan.Backup.Parts = append(m.plan.Backup.Parts, part)
		m.plan.Backup.PlainBytes += part.PlainBytes
	}
	manifest := m.manifest()
	sum := sha256.Sum256(manifest)
	m.plan.Backup.ManifestSHA256 = hex.EncodeToString(sum[:])
	m.object(t, backup.ManifestName(m.plan.Backup.ID), manifest)
}

func (m *made) object(t *testing.T, name string, body []byte) {
	t.Helper()
	if err := m.store.Put(context.Background(), name, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
}

func (m *made) manifest() []byte {
	var files []string
	for _, name := range slices.Sorted(maps.Keys(m.listed)) {
		sum := sha256.Sum256([]byte(m.listed[name]))
		body, _ := json.Marshal(map[string]any{"Path": name, "Size": len(m.listed[name]), "Last-Modified": "2026-11-22 01:00:00 GMT", "Checksum-Algorithm": "SHA256", "Checksum": hex.EncodeToString(sum[:])})
		files = append(files, string(body))
	}
	text := fmt.Sprintf("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n%s\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/100028\", \"End-LSN\": \"0/100200\" }\n],\n", strings.Join(files, ",\n"))
	sum := sha256.Sum256([]byte(text))
	return []byte(text + "\"Manifest-Checksum\": \"" + hex.EncodeToString(sum[:]) + "\"}\n")
}

// config gives the tablespace a place of its own in the test's directory.
func (m *made) config(t *testing.T) RestoreConfig {
	t.Helper()
	a, err := archive.Pin(context.Background(), m.store, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return RestoreConfig{
		Dir: filepath.Join(dir, "data"), Source: Source{Archive: a}, Command: []string{"/usr/bin/walstream", "wal-get"},
		TablespaceMap: map[string]string{m.space(t): filepath.Join(dir, "space")},
		Owner:         &Owner{os.Getuid(), os.Getgid()},
	}
}

func TestExecute(t *testing.T) {
	m := newMade(t)
	m.put(t)
	cfg := m.config(t)
	var done, total int64
	cfg.Progress = func(d, of int64) { done, total = d, of }
	if err := m.plan.Execute(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	if done != total || total != m.plan.Backup.PlainBytes {
		t.Errorf("progress ends at %d of %d, the backup has %d bytes", done, total, m.plan.Backup.PlainBytes)
	}
	for name, want := range m.listed {
		if name == "standby.signal" || name == "postgresql.auto.conf" || name == "tablespace_map" {
			continue
		}
		if got, err := os.ReadFile(filepath.Join(cfg.Dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	space := cfg.TablespaceMap[m.space(t)]
	if link, err := os.Readlink(filepath.Join(cfg.Dir, "pg_tblspc/16385")); err != nil || link != space {
		t.Errorf("link %s, %v", link, err)
	}
	for name, want := range map[string]string{
		"tablespace_map": "16385 " + space + "\n", "recovery.signal": "", "postgresql.conf": "max_connections = 123", "pg_hba.conf": "local",
		"pg_ident.conf": "#", "postgresql.auto.conf": "--spool " + SideDir(cfg.Dir), "backup_manifest": "Manifest-Checksum",
	} {
		if got, err := os.ReadFile(filepath.Join(cfg.Dir, name)); err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s: %q, %v; want %q in it", name, got, err, want)
		}
	}
	conf, _ := os.ReadFile(filepath.Join(cfg.Dir, "postgresql.auto.conf"))
	if strings.Contains(string(conf), "'on'\nwork") || !strings.Contains(string(conf), "work_mem = '8MB'") || !strings.Contains(string(conf), "archive_mode = 'off'") {
		t.Errorf("postgresql.auto.conf:\n%s", conf)
	}
	for _, name := range []string{"standby.signal", heldBack} {
		if _, err := os.Stat(filepath.Join(cfg.Dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	for name, want := range map[string]fs.FileMode{".": 0o750, "base": 0o750, "base/1/1259": 0o640, "recovery.signal": 0o600} {
		if info, err := os.Stat(filepath.Join(cfg.Dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s: %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
}

// Whatever is wrong with a backup, no server can start from what is left, and
// the error says how to begin anew.
func TestExecuteRefusesDamage(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(m *made)
		want string
	}{
		"flipped bit":      {func(m *made) { m.parts = func(i int, b []byte) []byte { b[len(b)/2] ^= byte(i & 1); return b } }, "000002.tar.zst"},
		"cut off":          {func(m *made) { m.parts = func(_ int, b []byte) []byte { return b[:len(b)-3] } }, "tar.zst"},
		"something behind": {func(m *made) { m.parts = func(_ int, b []byte) []byte { return append(b, 0) } }, "tar.zst"},
		"frame behind": {func(m *made) { // one that zstd skips
			m.parts = func(_ int, b []byte) []byte { return append(b, 0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0) }
		}, "sha256"},
		"other contents": {func(m *made) { m.files[0]["base/1/1259"] = strings.Repeat("egap", 5000) }, "backup_manifest says"},
		"other size":     {func(m *made) { m.files[0]["base/1/1259"] += "x" }, "bytes, backup_manifest says"},
		"missing file":   {func(m *made) { delete(m.files[0], "base/1/1259") }, "are in no part"},
		"unlisted file":  {func(m *made) { m.files[0]["base/1/9999"] = "x" }, "not in backup_manifest"},
		"file twice":     {func(m *made) { m.files[2]["PG_VERSION"] = "15\n" }, "came twice"},
		"traversal":      {func(m *made) { m.files[0]["../escaped"] = "x" }, "leads out of"},
		"deep traversal": {func(m *made) { m.files[0]["base/../../escaped"] = "x" }, "leads out of"},
		"absolute":       {func(m *made) { m.files[0]["/tmp/escaped"] = "x" }, "leads out of"},
		"symlink": {func(m *made) {
			m.extra = []tar.Header{{Name: "base/link", Linkname: "/etc", Typeflag: tar.TypeSymlink}}
		}, "neither file nor directory"},
		"device":          {func(m *made) { m.extra = []tar.Header{{Name: "base/dev", Typeflag: tar.TypeChar}} }, "neither file nor directory"},
		"no backup_label": {func(m *made) { delete(m.files[0], "backup_label"); delete(m.listed, "backup_label") }, "no usable backup_label"},
		"no pg_control":   {func(m *made) { delete(m.files[2], controlfile.Path); delete(m.listed, controlfile.Path) }, "no global/pg_control"},
		"foreign control": {func(m *made) {
			b := bytes.Repeat([]byte{1}, 8192)
			m.files[2][controlfile.Path], m.listed[controlfile.Path] = string(b), string(b)
		}, "pg_control is damaged"},
		"other major":        {func(m *made) { m.plan.Identity.MajorVersion = 17 }, "pg_control has version 1300, that of PostgreSQL 17 is 1700"},
		"unknown tablespace": {func(m *made) { m.plan.Backup.Tablespaces[0].OID = 5 }, "tablespace 16385"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMade(t)
			m.plan.Backup.Tablespaces[0].Location = m.space(t)
			c.harm(m)
			m.put(t)
			cfg := m.config(t)
			err := m.plan.Execute(context.Background(), cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want an error with %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(cfg.Dir, controlfile.Path)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("pg_control is in place: %v", err)
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(cfg.Dir), "escaped")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("a file was written outside")
			}
			if h := hint.Of(err); len(h) == 0 || !strings.Contains(strings.Join(h, "\n"), "rm -rf "+SideDir(cfg.Dir)+" "+cfg.Dir) {
				t.Errorf("hints %q", h)
			}
			again := m.plan.Execute(context.Background(), cfg)
			if again == nil || !strings.Contains(again.Error(), c.want) {
				t.Errorf("again: %v", again)
			}
		})
	}
}

func TestExecuteChecksFirst(t *testing.T) {
	m := newMade(t)
	m.put(t)
	for name, c := range map[string]struct {
		prepare func(t *testing.T, cfg *RestoreConfig)
		want    string
	}{
		"not empty":   {func(t *testing.T, cfg *RestoreConfig) { write(t, filepath.Join(cfg.Dir, "x")) }, "is not empty"},
		"server runs": {func(t *testing.T, cfg *RestoreConfig) { write(t, filepath.Join(cfg.Dir, "postmaster.pid")) }, "postmaster.pid"},
		"server runs after an interrupted restore": {func(t *testing.T, cfg *RestoreConfig) {
			write(t, filepath.Join(SideDir(cfg.Dir), unfinished))
			write(t, filepath.Join(cfg.Dir, "postmaster.pid"))
		}, "postmaster.pid"},
		"a file":    {func(t *testing.T, cfg *RestoreConfig) { write(t, cfg.Dir) }, "not a directory"},
		"no parent": {func(t *testing.T, cfg *RestoreConfig) { cfg.Dir = filepath.Join(cfg.Dir, "a", "b") }, "is no directory"},
		"relative":  {func(t *testing.T, cfg *RestoreConfig) { cfg.Dir = "data" }, "absolute"},
		"tablespace not empty": {func(t *testing.T, cfg *RestoreConfig) {
			write(t, filepath.Join(cfg.TablespaceMap[m.space(t)], "x"))
		}, "is not empty"},
		"tablespace inside": {func(t *testing.T, cfg *RestoreConfig) {
			cfg.TablespaceMap[m.space(t)] = filepath.Join(cfg.Dir, "space")
		}, "is taken"},
		"tablespace relative": {func(t *testing.T, cfg *RestoreConfig) { cfg.TablespaceMap[m.space(t)] = "space" }, "absolute"},
		"tablespace unknown":  {func(t *testing.T, cfg *RestoreConfig) { cfg.TablespaceMap["/other"] = "/x" }, "no tablespace at"},
		"line break":          {func(t *testing.T, cfg *RestoreConfig) { cfg.Command = append(cfg.Command, "a\nb") }, "line break"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := m.configIn(t, c.prepare)
			before := tree(t, filepath.Dir(cfg.Dir))
			err := m.plan.Execute(context.Background(), cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want an error with %q", err, c.want)
			}
			if check := m.plan.Check(cfg); check == nil || err != nil && !strings.Contains(err.Error(), check.Error()) {
				t.Errorf("a dry run says %v, the restore %v", check, err)
			}
			if after := tree(t, filepath.Dir(cfg.Dir)); !slices.Equal(before, after) {
				t.Errorf("something was written: %s", after)
			}
		})
	}
}

// configIn is config for a subtest, where m.space has another name.
func (m *made) configIn(t *testing.T, prepare func(*testing.T, *RestoreConfig)) RestoreConfig {
	cfg := m.config(t)
	m.plan.Backup.Tablespaces[0].Location = m.space(t)
	prepare(t, &cfg)
	return cfg
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func tree(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// The command that clears up names what the interrupted restore made. What this
// one would use may be anybody's: without its map it is production's tablespace.
func TestInterruptedElsewhere(t *testing.T) {
	m := newMade(t)
	m.put(t)
	cfg := m.config(t)
	ctx, cancel := context.WithCancel(context.Background())
	cfg.Progress = func(int64, int64) { cancel() }
	if err := m.plan.Execute(ctx, cfg); err == nil {
		t.Fatal("it was not interrupted")
	}
	made := "remove what it made: rm -rf " + SideDir(cfg.Dir) + " " + cfg.Dir + " " + cfg.TablespaceMap[m.space(t)]
	cfg.TablespaceMap = nil
	if h := hint.Of(m.plan.Check(cfg)); len(h) != 1 || h[0] != made {
		t.Errorf("hints %q, want %q", h, made)
	}
}

// A restore that is interrupted stops, and leaves nothing that can be started.
func TestExecuteInterrupted(t *testing.T) {
	m := newMade(t)
	m.put(t)
	cfg := m.config(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	cfg.Progress = func(int64, int64) { cancel(enough) }
	if err := m.plan.Execute(ctx, cfg); !errors.Is(err, enough) && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, controlfile.Path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pg_control is in place: %v", err)
	}
}
