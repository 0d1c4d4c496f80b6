package main

import (
	endian "encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit"
)

// skewed is a gettimeofday, from which PostgreSQL has its time of day, that is
// ahead by the seconds in a file.
const skewed = `
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile const int64_t *ahead;
__attribute__((constructor)) static void begin(void)
{
	int fd = open(getenv("CLOCK_AHEAD"), O_RDONLY);
	ahead = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
	if (fd < 0 || ahead == MAP_FAILED) abort();
}
int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec now;
	if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
	tv->tv_sec = now.tv_sec + *ahead;
	tv->tv_usec = now.tv_nsec / 1000;
	return 0;
}
`

// skew gives the primary a clock that can be set, and returns what sets it.
func (w *world) skew() (ahead func(seconds int64)) {
	w.t.Helper()
	at := func(name string) string { return filepath.Join(w.dir, name) }
	write := func(name string, body []byte, mode os.FileMode) {
		if err := os.WriteFile(at(name), body, mode); err != nil {
			w.t.Fatal(err)
		}
		testkit.Own(w.t, at(name))
	}
	ahead = func(seconds int64) {
		f, err := os.OpenFile(at("ahead"), os.O_WRONLY|os.O_CREATE, 0o644)
		if err == nil {
			_, err = f.WriteAt(endian.NativeEndian.AppendUint64(nil, uint64(seconds)), 0)
			f.Close()
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	ahead(0)
	write("clock.c", []byte(skewed), 0o644)
	testkit.Run(w.t, "cc", "-shared", "-fPIC", "-o", at("clock.so"), at("clock.c"))
	postgres := fmt.Sprintf("#!/bin/sh\nexec env LD_PRELOAD=%s CLOCK_AHEAD=%s %s \"$@\"\n",
		hint.Quote(at("clock.so")), hint.Quote(at("ahead")), hint.Quote(filepath.Join(w.primary.Bin, "postgres")))
	write("postgres", []byte(postgres), 0o755)
	bin := w.primary.Bin
	w.primary.Stop(2)
	w.primary.Bin = w.dir
	w.primary.Start()
	w.primary.Bin = bin
	return ahead
}

// The clock of the server jumps forward and back while WAL is streamed: no
// commit is lost, PostgreSQL stops where the plan says, by the first commit that
// is later than the target, and the plan says what that leaves out.
func TestBadClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testkit.Config{SegmentSizeMB: 1})
	ahead := w.skew()
	r := w.receive("--create-slot")
	w.must("backup", "--checkpoint", "fast")
	first := w.history(2)
	ahead(3600)
	early := w.history(2)
	ahead(-3600)
	back := w.history(2)
	ahead(0)
	last := w.history(1)
	if early[1].time < last[0].time || back[0].time > first[0].time {
		t.Fatalf("the clock did not jump: %v %v %v %v", first, early, back, last)
	}
	w.archived()
	r.stop()
	w.primary.Stop(2)
	for name, c := range map[string]struct {
		target string
		row    string // the highest that is there
	}{
		"before the jump": {first[0].time, first[0].row},
		"after the jump":  {early[0].time, early[0].row},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			dir := filepath.Join(w.dir, name)
			if out := w.must("restore", dir, "--target-time", c.target, "--dry-run"); !strings.Contains(out, "commit times went back") {
				t.Errorf("no warning:\n%s", out)
			}
			restored := w.restore(dir, "--target-time", c.target)
			if got := restored.Psql(t, "SELECT max(n) FROM steps"); got != c.row {
				t.Errorf("highest row is %s, want %s", got, c.row)
			}
			restored.Stop(2)
		})
	}
	t.Run("nothing later", func(t *testing.T) {
		_, errs, code := w.in(t).run("restore", filepath.Join(w.dir, "none"), "--target-time", early[1].time, "--dry-run")
		if code != 4 || !strings.Contains(errs, "no transaction in the archive finished later") {
			t.Errorf("exit code %d\n%s", code, errs)
		}
	})
	restored := w.restore(filepath.Join(w.dir, "all"))
	if got := restored.Psql(t, "SELECT count(*), max(n) FROM steps"); got != last[0].row+"|"+last[0].row {
		t.Errorf("rows and the highest are %s, want %s", got, last[0].row)
	}
}
