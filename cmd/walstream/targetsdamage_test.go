package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/recovery"
)

// damage damages one or two objects of a copy of the archive, before anything
// is restored from it or before recovery starts. It ends in one of two ways: what
// comes up is right, or nothing does.
func (b *busy) damage(t *testing.T, rng *rand.Rand, counts *census) {
	w := *b.world
	w.t, w.dir = t, testkit.Dir(t)
	w.archive = filepath.Join(w.dir, "archive")
	testkit.Run(t, "cp", "-al", b.archive, w.archive)
	dir := filepath.Join(w.dir, "data")

	target, args, plan := b.clear(&w, dir, rng)
	what, name, do := b.harm(t, rng, w.archive, plan)
	if n := len(plan.WAL); n > 0 && target.Kind == recovery.KindEnd && strings.HasPrefix(what, "missing: wal/"+plan.WAL[n-1].Last[:8]+"/"+plan.WAL[n-1].Last) {
		return // nobody can know that there was more
	}
	early := rng.IntN(2) == 0 || len(plan.WAL) == 0
	if early {
		do()
	}
	counts.add("damaged: " + class(name))
	out, errs, code := w.run(args...)
	told := fmt.Sprintf("%s, before the restore: %v\nwalstream %s: exit code %d\n%s%s", what, early, strings.Join(args, " "), code, out, errs)
	if !early {
		do()
	}
	// One bit changes nothing that is believed in the name of a checksum's field, or
	// where it makes a capital of another field's letter.
	harmless := strings.HasPrefix(what, "missing") || strings.HasSuffix(name, ".json") && strings.HasPrefix(what, "byte")
	if out, errs, code := w.run("verify", "--full"); code == 0 && plan.WAL != nil && plan.holds(name) && !harmless {
		t.Errorf("verify finds nothing: %s%s%s", told, out, errs)
	}
	if code != 0 {
		counts.add(fmt.Sprintf("damage: exit code %d", code))
		if !early {
			t.Errorf("nothing was damaged yet: %s", told)
		}
		return
	}
	c := testkit.Adopt(t, dir)
	defer c.Stop(syscall.SIGQUIT)
	state := recovers(t, c)
	counts.add("damage: " + state)
	if state != "stopped" {
		tli, end := ended(t, c)
		b.holdsMoment(t, c, tli, end, b.answers(target), told+c.Log())
		return
	}
	if log := c.Log(); strings.Contains(log, "selected new timeline ID") || strings.Contains(log, "archive recovery complete") {
		t.Errorf("it promoted: %s%s", told, log)
	}
}

// clear draws a target whose meaning does not change with what is lost: of two
// restore points of one name, one may be. Of one that cannot be reached the plan
// is empty.
func (b *busy) clear(w *world, dir string, rng *rand.Rand) (recovery.Target, []string, *printed) {
	want := 0
	if rng.IntN(4) == 0 {
		want = 4
	}
	for {
		target, args := b.target(rng)
		args = append([]string{"restore", dir, "--json"}, args...)
		out, _, code := w.run(append(args, "--dry-run")...)
		if code != want || strings.HasPrefix(target.Name, "twice") {
			continue
		}
		plan := &printed{}
		if code == 0 {
			decode(w.t, out, plan)
		}
		return target, args, plan
	}
}

// answers is what is right with an archive in which something is damaged: where
// the backup decides what the target means, what any of them leads to.
func (b *busy) answers(target recovery.Target) answer {
	a := b.answer(target)
	if target.Backup != "" || target.Kind != recovery.KindImmediate && !target.Timeline.Current {
		return a
	}
	for _, k := range b.backups {
		target.Backup = k.id
		maps.Copy(a.moments, b.answer(target).moments)
	}
	return a
}

// harm draws what to damage, of all kinds alike, and mostly something that the
// plan reads. It returns what does it.
func (b *busy) harm(t *testing.T, rng *rand.Rand, archive string, plan *printed) (told, name string, do func()) {
	all := objects(t, archive)
	classes := map[string][]string{}
	for _, name := range all {
		if plan.reads(name) {
			classes[class(name)] = append(classes[class(name)], name)
		}
	}
	names := classes[oneOf(rng, slices.Sorted(maps.Keys(classes)))]
	if rng.IntN(5) == 0 {
		names = all
	}
	name = oneOf(rng, names)
	write := func(name string, body []byte) {
		// What is linked to it stays as it is.
		path := filepath.Join(archive, name)
		err := errors.Join(os.Remove(path), os.WriteFile(path, body, 0o644))
		if err != nil {
			t.Fatal(err)
		}
		testkit.Own(t, path)
	}
	body, err := os.ReadFile(filepath.Join(archive, name))
	if err != nil || len(body) == 0 {
		t.Fatalf("%s has %d bytes: %v", name, len(body), err)
	}
	switch rng.IntN(4) {
	case 0:
		return "missing: " + name, name, func() {
			if err := os.Remove(filepath.Join(archive, name)); err != nil {
				t.Fatal(err)
			}
		}
	case 1:
		n := rng.IntN(len(body))
		return fmt.Sprintf("cut after %d bytes: %s", n, name), name, func() { write(name, body[:n]) }
	case 2:
		var same []string
		for _, other := range all {
			if other != name && class(other) == class(name) {
				same = append(same, other)
			}
		}
		if len(same) > 0 {
			other := oneOf(rng, same)
			second, err := os.ReadFile(filepath.Join(archive, other))
			if err != nil {
				t.Fatal(err)
			}
			return "exchanged: " + name + " and " + other, name, func() { write(name, second); write(other, body) }
		}
	}
	n, bit := rng.IntN(len(body)), byte(1)<<rng.IntN(8)
	return fmt.Sprintf("byte %d ^ %#x: %s", n, bit, name), name, func() {
		flipped := slices.Clone(body)
		flipped[n] ^= bit
		write(name, flipped)
	}
}

func oneOf[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// objects lists the names of an archive's objects.
func objects(t *testing.T, archive string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(archive, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == ".tmp" { // no objects
			return fs.SkipDir
		}
		if err == nil && !d.IsDir() && !strings.HasPrefix(d.Name(), ".") {
			names = append(names, strings.TrimPrefix(path, archive+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

var digits = regexp.MustCompile(`[0-9A-F]{6,}([TZ][0-9]*)*`)

// class is what objects of one kind have in common in their names.
func class(name string) string { return digits.ReplaceAllString(name, "N") }

// reads says whether a restore to the target of a plan may look at an object:
// all that is not known to be of another backup, or off the way.
func (p *printed) reads(name string) bool {
	switch {
	case p.WAL == nil || p.holds(name) || strings.HasSuffix(name, ".history"):
		return true
	}
	return !strings.HasPrefix(name, "wal/") && !strings.HasPrefix(name, "backup")
}

// holds says whether an object is one of those that hold what a plan restores.
func (p *printed) holds(name string) bool {
	if name == "walstream.json" || strings.Contains(name, p.Backup.ID) && !strings.HasSuffix(name, "/started.json") {
		return true
	}
	for _, r := range p.WAL {
		base := strings.TrimPrefix(name, "wal/"+r.First[:8]+"/")
		if base != name && base[:24] >= r.First && base[:24] <= r.Last {
			return true
		}
	}
	return false
}
