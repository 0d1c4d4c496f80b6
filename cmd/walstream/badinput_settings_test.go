package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/walstream/walstream/internal/testkit"
)

// What can be wrong with settings, names and times before anything else is
// looked at.
func (r *ruins) settings() {
	const example = "every key, what it means and its default: "
	file := filepath.Join(r.world.dir, "w.yml")
	write := func(text string) func(*world) {
		return func(w *world) {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				w.t.Fatal(err)
			}
			testkit.Own(w.t, file)
		}
	}
	check := quoted("walstream", "config", "check", "-c", file)
	wrong := func(name, line, want, hint string) bad {
		return bad{name: name, line: line, code: 2, want: want, hint: hint, paste: (*world).sh, once: true, keeps: []string{r.dir}}
	}
	// The archive has no such time: read is what can be asked for here.
	timed := func(name, zone, text, want, hint string) bad {
		b := wrong(name, "TZ="+zone+" "+r.to("--dry-run", "--target-time", text), want, hint)
		b.paste = func(w *world, text string) {
			if _, errs, code := w.shell(b.line + " " + text); code != 4 || !strings.Contains(errs, "cannot be reached") {
				w.t.Errorf("pasted %s: exit code %d\n%s", text, code, errs)
			}
		}
		return b
	}
	mended := func(b bad) bad {
		b.do, b.mend, b.once = write("archive: "+r.archive+"\nspol:\n  dir: /x\n"), write("archive: "+r.archive+"\n"), false
		return b
	}
	r.catalogue("Settings, names and times", []bad{
		mended(wrong("unknown key", check, file+":2: unknown key spol, did you mean spool?", example)),
		wrong("odd slot", quoted("walstream", "slot", "show", "--slot", `it's "a" slot`), `slot: "it's \"a\" slot" is no slot name`, example),
		wrong("odd application_name", "WALSTREAM_APPLICATION_NAME='a\nb' walstream config check", `application_name: "a\nb" is no application_name`, example),
		wrong("line break in archive", quoted("walstream", "list", "--archive", r.archive+"\nb"), `flag --archive: archive: `, example),
		wrong("line break in spool", r.to("--spool", r.spool+"\nb"), `flag --spool: spool.dir: `, example),
		bad{name: "WAL for everyone", line: "WALSTREAM_HTTP_LISTEN=0.0.0.0:0 walstream serve", code: 2, want: "http.listen 0.0.0.0:0: WAL is given to other machines only with ", once: true},
		bad{name: "line break in a restore point", line: r.to("--target-name", "a\nb"), code: 2, want: `restore point "a\nb": a line break`, once: true},
		bad{name: "line break in a label", line: quoted("walstream", "backup", "--label", "a\nb"), code: 1, want: `label "a\nb" holds control characters`, once: true},
		timed("time unreadable", "UTC", "yesterday", `"yesterday" is no target time`, ""),
		timed("time in a zone of many meanings", "UTC", "2026-11-22 09:41 IST", `zone "IST" is neither an offset from UTC nor UTC itself`, ""),
		timed("time skipped", "Europe/Berlin", "2026-03-29 02:30", "is a time that the clocks in Europe/Berlin skipped", "by the clock before the change: "),
		timed("time shown twice", "Europe/Berlin", "2026-10-25 02:30", "is a time that the clocks in Europe/Berlin showed twice", "by the clock after the change: "),
	})
}

// What wal-get says to PostgreSQL when it is asked for a segment.
func (r *ruins) walGet() {
	seg := r.object(r.hole)
	path := filepath.Join(r.world.dir, "RECOVERYXLOG")
	get := func(name string) string {
		return quoted("walstream", "wal-get", "--restore-retry", "0s", name, path)
	}
	trouble := func(name, want, hint string) bad {
		return bad{name: name, line: get(r.hole), code: 200, want: want, hint: hint, paste: (*world).sh, keeps: []string{path}}
	}
	damaged := func(name, want string) bad { return trouble(name, want, "what the archive has: ") }
	body, err := os.ReadFile(seg)
	if err != nil {
		r.t.Fatal(err)
	}
	other := r.object(r.fork)
	r.catalogue("wal-get", []bad{
		trouble("archive gone", "open archive directory "+r.archive, "is it the right place, and mounted? ").when(without(r.archive)),
		damaged("segment gone", r.hole+": it is missing").when(without(seg)),
		damaged("data damaged", r.hole+".zst is damaged: ").when(flipping(seg, len(body)-1)),
		damaged("header of a segment damaged", r.hole+".zst is damaged: header CRC-32C").when(flipping(seg, 40)),
		damaged("another segment in its place", r.hole+".zst is damaged: header is of ").when(func(w *world) { move(w.t, seg, seg+".away"); testkit.Run(w.t, "cp", other, seg) },
			func(w *world) { move(w.t, seg+".away", seg) }),
		{name: "no name of a WAL file", line: get("../walstream.json"), code: 200, want: "../walstream.json", once: true},
		{name: "nobody serves", line: "WALSTREAM_RESTORE_RETRY=0s " + quoted("walstream", "wal-get", "--from", "http://127.0.0.1:1", r.hole, path), code: 200,
			want: r.hole + ": http://127.0.0.1:1/wal/" + r.hole + ": dial tcp 127.0.0.1:1: ", once: true},
		{name: "behind the end", line: get("00000002000000FF00000000"), code: 1, want: "00000002000000FF00000000", once: true},
	})
}
