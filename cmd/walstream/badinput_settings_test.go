package main

import (
	"net"
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

// What can be wrong when an archive is looked after, or served.
func (r *ruins) upkeep() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	token := filepath.Join(r.world.dir, "token")
	if err := os.WriteFile(token, []byte("open-sesame"), 0o644); err != nil {
		r.t.Fatal(err)
	}
	guarded := *r.world
	guarded.env = []string{"WALSTREAM_HTTP_LISTEN=127.0.0.1:0", "WALSTREAM_HTTP_TOKEN_FILE=" + token}
	server := guarded.start("serve")
	defer server.stop()
	ask := func(env string) string {
		return env + "WALSTREAM_RESTORE_RETRY=0s " + quoted("walstream", "wal-get", "--from", server.url(), r.hole, filepath.Join(r.world.dir, "RECOVERYXLOG"))
	}
	said := func(name, line string, code int, want string) bad {
		return bad{name: name, line: line, code: code, want: want, once: true}
	}
	r.catalogue("Upkeep and WAL by HTTP", []bad{
		said("how many to keep", "walstream prune --yes", 2, "--keep-backups: say how many to keep"),
		said("nobody to ask", "walstream prune --keep-backups 1 </dev/null", 2, "nothing was deleted: there is no terminal to ask on"),
		said("unreadable period", "walstream verify --since yesterday", 2, `--since "yesterday": write it like 7d`),
		said("verify an unknown backup", "walstream verify --backup 20010101T000000Z", 1, `backup "20010101T000000Z": `),
		said("something is damaged", "walstream verify", 3, "1 problem").when(flipping(r.object(r.hole), 40)),
		said("a check fails", "walstream doctor --slot nowhere", 3, " checks failed"),
		said("address in use", "WALSTREAM_HTTP_LISTEN="+l.Addr().String()+" walstream serve", 1, "http.listen "+l.Addr().String()+": address already in use"),
		said("no address", "WALSTREAM_HTTP_LISTEN=off walstream serve", 2, "there is no address to serve on"),
		said("no token", "WALSTREAM_HTTP_TOKEN_FILE=/nowhere walstream serve", 2, "http.token_file: open /nowhere: "),
		said("asked without the token", ask(""), 200, ": 401 Unauthorized: "),
		said("asked for WAL that is damaged", ask("WALSTREAM_HTTP_TOKEN_FILE="+token+" "), 200, ": 503 Service Unavailable: ").when(flipping(r.object(r.hole), 40)),
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
		{name: "no such spool", line: quoted("walstream", "wal-get", "--spool", path+".spool", r.hole, path), code: 200, want: "there is no spool",
			hint: "is it the right place, and mounted? ", once: true},
		{name: "behind the end", line: get("00000002000000FF00000000"), code: 1, want: "00000002000000FF00000000", once: true},
	})
}
