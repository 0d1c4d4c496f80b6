package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/testkit"
)

// bad is something that is wrong, what a person is told about it, and what
// becomes of that when it is pasted.
type bad struct {
	name string
	do   func(*world) // makes the trouble; may be nil
	line string       // for the shell
	code int
	want string // object and cause
	hint string // what stands before the part that is pasted
	// paste does with that part what a person would; nil when the hint is
	// no command.
	paste func(*world, string)
	mend  func(*world) // what is left to do by hand; may be nil
	then  int          // exit code of the line after that
	once  bool         // the paste is the line itself, in a better form
	keeps []string     // what is left unchanged besides archive and spool
}

// catalogue runs the table, each row as a subtest, and compares what is said
// with docs/errors.md.
func (w *world) catalogue(section string, table []bad) {
	w.t.Helper()
	doc := readErrors(w.t, section)
	for _, b := range table {
		w.t.Run(b.name, func(t *testing.T) { w.in(t).meet(b, doc) })
	}
	for _, e := range doc {
		if !e.met {
			w.t.Errorf("docs/errors.md, %s: no row of the test gets %q, or it failed", section, e.message)
		}
	}
}

func (w *world) meet(b bad, doc []*documented) {
	w.t.Helper()
	if b.do != nil {
		b.do(w)
	}
	mend := sync.OnceFunc(func() {
		if b.mend != nil {
			b.mend(w)
		}
	})
	defer mend() // also when the row fails
	places := append([]string{w.archive, w.spool}, b.keeps...)
	before := snapshot(w.t, places...)
	out, errs, code := w.shell(b.line)
	if code != b.code || !strings.Contains(errs, b.want) {
		w.t.Errorf("%s: exit code %d, want %d with %q\n%s%s", b.line, code, b.code, b.want, out, errs)
	}
	if changed := changes(before, snapshot(w.t, places...)); len(changed) > 0 {
		w.t.Errorf("%s changed %d files and directories, the first is %s", b.line, len(changed), changed[0])
	}
	if strings.Contains(errs, "goroutine ") || strings.Contains(errs, "%!") {
		w.t.Errorf("%s: not for people:\n%s", b.line, errs)
	}
	message, hints := said(errs)
	document(w.t, doc, code, message, hints)
	if b.paste != nil {
		text := ""
		for _, h := range hints {
			rest, ok := strings.CutPrefix(h, b.hint)
			if _, command, ours := strings.Cut(rest, ": walstream "); ours {
				rest = "walstream " + command
			}
			if ok && text == "" {
				text = rest
			}
		}
		if text == "" {
			w.t.Fatalf("no hint begins with %q:\n%s", b.hint, errs)
		}
		b.paste(w, text)
	}
	mend()
	if b.once {
		return
	}
	if out, errs, code := w.shell(b.line); code != b.then {
		w.t.Errorf("%s: mended, but exit code %d, want %d\n%s%s", b.line, code, b.then, out, errs)
	}
}

// said takes apart what a command left on standard error: messages and hints,
// of which a name with a line break may take several lines.
func said(errs string) (message string, hints []string) {
	hints = strings.Split("\n"+strings.TrimSuffix(errs, "\n"), "\nhint: ")[1:]
	first, _, _ := strings.Cut("\n"+errs, "\nhint: ")
	if _, text, ok := strings.Cut(first, "\nwalstream: "); ok {
		message = strings.ReplaceAll(text, "\nwalstream: ", "\n")
	}
	return strings.TrimSuffix(message, "\n"), hints
}

// shell runs a line as a person would: walstream and PostgreSQL's programs are
// in the PATH, the settings in the environment. What begins with sudo is run by
// the user of the tests.
func (w *world) shell(line string) (stdout, stderr string, code int) {
	w.t.Helper()
	tools := filepath.Join(w.dir, "tools")
	if !exists(tools) {
		const sudo = "#!/bin/sh\n[ \"$1\" = -E ] && shift\nexec \"$@\"\n"
		if err := errors.Join(os.Mkdir(tools, 0o755), os.WriteFile(filepath.Join(tools, "sudo"), []byte(sudo), 0o755)); err != nil {
			w.t.Fatal(err)
		}
	}
	cmd := testkit.Command(w.t, "sh", "-c", line)
	if strings.HasPrefix(line, "sudo ") {
		cmd.SysProcAttr = nil
	}
	cmd.Env = append(w.command().Env, "HOME="+w.dir, "PATH="+strings.Join([]string{filepath.Dir(w.bin), w.primary.Bin, tools, os.Getenv("PATH")}, ":"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// sh pastes a command into the shell.
func (w *world) sh(text string) {
	w.t.Helper()
	if out, errs, code := w.shell(text); code != 0 {
		w.t.Fatalf("pasted %s: exit code %d\n%s%s", text, code, out, errs)
	}
}

// psql pastes SQL into the primary's psql.
func (w *world) psql(text string) {
	w.t.Helper()
	cmd := testkit.Command(w.t, "psql", "-X", "-v", "ON_ERROR_STOP=1", w.primary.Conninfo()+" dbname=postgres")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("pasted %s: %v\n%s", text, err, out)
	}
}

// flags pastes what belongs behind a command line.
func flags(line string) func(*world, string) {
	return func(w *world, text string) { w.sh(line + " " + text) }
}

// snapshot is everything below some directories: by path the mode and a digest
// of the contents. Locks and sockets are no contents.
func snapshot(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() && !e.Type().IsRegular() {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			var body []byte
			if !e.IsDir() {
				body, err = os.ReadFile(path)
			}
			all[path] = fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(body))
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return all
}

// changes lists the paths whose entries are not the same.
func changes(before, after map[string]string) []string {
	var paths []string
	for path := range after {
		if after[path] != before[path] {
			paths = append(paths, path)
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// quoted makes a command line of words.
func quoted(words ...string) string {
	for i, word := range words {
		words[i] = hint.Quote(word)
	}
	return strings.Join(words, " ")
}
