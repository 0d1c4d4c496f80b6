package archive_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func formatMD(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// recipe runs the shell block of FORMAT.md that holds marker, with variables
// set to other values than those in the text.
func recipe(t *testing.T, marker string, vars map[string]string) []byte {
	t.Helper()
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(formatMD(t), -1) {
		script := block[1]
		if !strings.Contains(script, marker) {
			continue
		}
		for name, value := range vars {
			line := regexp.MustCompile("(?m)^" + name + "=.*$")
			if !line.MatchString(script) {
				t.Fatalf("the recipe sets no %s", name)
			}
			script = line.ReplaceAllLiteralString(script, name+"='"+value+"'")
		}
		out, err := exec.CommandContext(t.Context(), "sh", "-eu", "-c", script).Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, script)
		}
		return out
	}
	t.Fatalf("FORMAT.md has no recipe with %q", marker)
	return nil
}

// The recipes of FORMAT.md get everything back without walstream.
func TestByHand(t *testing.T) { inClearAndSealed(t, testByHand) }

func testByHand(t *testing.T, keys archive.Keys) {
	root := t.TempDir()
	store := openDir(t, archive.DirConfig{Path: root})
	a, err := keys.Pin(t.Context(), store, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"00000002.history": []byte("1\t0/300100\tpromoted\n")}
	if err := a.PutHistory(t.Context(), 2, want["00000002.history"]); err != nil {
		t.Fatal(err)
	}
	g := newWAL(1, 1, 1)
	g.FillSegments(3)
	var object string
	for i := range 2 {
		p, data := segmentOf(g, i)
		putPiece(t, a, p, data, nil)
		want[p.ID.Name(testSize)] = data
		object = filepath.Join(root, a.SealedName(p.Name(testSize)))
	}
	for _, to := range []int64{10_000, 123_456, 8192} {
		p, data := tailOf(g, 2, to)
		putPiece(t, a, p, data, nil)
		if to == 123_456 {
			want[p.ID.Name(testSize)] = append(bytes.Clone(data), make([]byte, int64(testSize)-to)...)
		}
	}
	third := *g
	third.Config.Start, third.Bytes = g.Config.Start+2*wal.LSN(testSize), g.Bytes[2*testSize:]
	putMiddle(t, a, &third, 65_536, 123_456, false)

	out := filepath.Join(t.TempDir(), "plain")
	recipe(t, "truncate -s", map[string]string{"ARCHIVE": root, "OUT": out, "SIZE": fmt.Sprint(testSize), "KEY": keys.IdentityFile})
	got := map[string][]byte{}
	err = filepath.WalkDir(out, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			got[e.Name()], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil || len(got) != len(want) {
		t.Errorf("%d files, want %d: %v", len(got), len(want), err)
	}
	for name := range want {
		if !bytes.Equal(got[name], want[name]) {
			t.Errorf("%s: %d bytes, not those that were stored", name, len(got[name]))
		}
	}

	vars := map[string]string{"OBJECT": object}
	var header archive.Header
	if err := json.Unmarshal(recipe(t, "od -An", vars), &header); err != nil {
		t.Fatal(err)
	}
	marker := `-dqc "$OBJECT"`
	if a.Identity().Encrypted {
		marker, vars["KEY"] = "-dqc | sha256sum", keys.IdentityFile
	}
	sum := recipe(t, marker, vars)
	if header.StartLSN != 0x200000 || !bytes.HasPrefix(sum, []byte(header.SHA256)) {
		t.Errorf("header %+v, sha256 %s", header, sum)
	}
}

// Every field that is written is in FORMAT.md, and the other way round.
func TestFormatFields(t *testing.T) {
	text := formatMD(t)
	for section, v := range map[string]any{
		"## walstream.json": archive.Identity{}, "## Segments and tails": archive.Header{},
	} {
		_, part, ok := strings.Cut(text, section)
		part, _, _ = strings.Cut(part, "\n## ")
		_, part, ok2 := strings.Cut(part, "| field |")
		if !ok || !ok2 {
			t.Fatalf("FORMAT.md has no table in %q", section)
		}
		var documented []string
		for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(part, -1) {
			for _, name := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(row[1], -1) {
				documented = append(documented, name[1])
			}
		}
		written := jsonFields(reflect.TypeOf(v))
		slices.Sort(documented)
		slices.Sort(written)
		if diff := cmp.Diff(written, documented); diff != "" {
			t.Errorf("%s (-written +documented):\n%s", section, diff)
		}
	}
}

func jsonFields(typ reflect.Type) []string {
	var names []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			names = append(names, jsonFields(f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// The bytes of the format are those of the tables in FORMAT.md.
func TestFormatBytes(t *testing.T) {
	_, f, id := stored(t, small(), 0)
	if head := fmt.Sprintf("%X", f.body[:4]); head != "572A4D18" {
		t.Errorf("begins with %s", head)
	}
	if string(f.body[8:16]) != "WALSTRM\x01" || f.body[20] != '{' {
		t.Errorf("signature and JSON: %q", f.body[8:21])
	}
	if end := fmt.Sprintf("%X", f.body[len(f.body)-12:len(f.body)-4]); end != "5E2A4D1804000000" {
		t.Errorf("ends with %s", end)
	}
	for name, want := range map[string]string{
		archive.SegmentName(id, testSize):                                             "wal/00000001/000000010000000000000001.zst",
		archive.SegmentName(segment.ID{Timeline: 10, No: 256}, 16<<20):                "wal/0000000A/0000000A0000000100000000.zst",
		archive.TailName(segment.ID{Timeline: 1, No: 1}, segment.MaxSize, 0, 1<<30):   "wal/00000001/000000010000000000000001.tail/00000000-40000000.zst",
		archive.TailName(segment.ID{Timeline: 1, No: 1}, segment.MaxSize, 8192, 8200): "wal/00000001/000000010000000000000001.tail/00002000-00002008.zst",
		archive.HistoryName(27):      "wal/0000001B.history",
		archive.LSNHex(0x16B374D848): "00000016B374D848",
	} {
		if name != want {
			t.Errorf("%q, want %q", name, want)
		}
	}
}
