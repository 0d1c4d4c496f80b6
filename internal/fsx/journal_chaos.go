//go:build chaos

package fsx

import (
	"bytes"
	"cmp"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ChaosEnv names the environment variable with the directory of the journals;
// without it there is none.
const ChaosEnv = "CHAOS_JOURNALS"

// Record is one step of a journal. A sync has two: its beginning, and its end
// if it succeeded. What was written in between is not covered.
type Record struct {
	At        int64 // monotonic clock of the machine, ns: orders the journals of several processes
	Kind      OpKind
	Path, Old string // absolute
	Mode      fs.FileMode
	Inode     uint64 // of files
	Off       int64  // of a write; the size of a truncation
	Data      []byte
	Sync      int64 // number of a sync in its process
	Done      bool  // it has succeeded
	Failed    bool  // it has failed: what it should have made durable is lost
}

// Fault is a rule for operations on Path and below it. The file "faults" in
// the directory of the journals holds a JSON array of them.
type Fault struct {
	Path  string
	Kinds []OpKind // nil: all that change or sync something
	Delay time.Duration
	Errno syscall.Errno // 0: none
}

type journalWriter struct {
	dir string

	mu    sync.Mutex // held while names and bytes change, so that the order is true
	file  *os.File   // nil before the first record
	buf   bytes.Buffer
	enc   *gob.Encoder
	syncs int64
}

func newJournal(dir string) *journalWriter { return &journalWriter{dir: dir} }

// fault applies the rules that hold at this moment.
func (j *journalWriter) fault(r Record) error {
	if j.dir == "" {
		return nil
	}
	body, err := os.ReadFile(filepath.Join(j.dir, "faults"))
	if err != nil {
		return nil
	}
	var faults []Fault
	if err := json.Unmarshal(body, &faults); err != nil {
		j.die(err)
	}
	for _, f := range faults {
		if path := absolute(r.Path); path != f.Path && !strings.HasPrefix(path, f.Path+"/") || f.Kinds != nil && !slices.Contains(f.Kinds, r.Kind) {
			continue
		}
		time.Sleep(f.Delay)
		if f.Errno != 0 {
			return &fs.PathError{Op: string(r.Kind), Path: r.Path, Err: f.Errno}
		}
	}
	return nil
}

// change does something that is durable only after a sync.
func (j *journalWriter) change(r Record, do func() (inode uint64, err error)) error {
	if err := j.fault(r); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	inode, err := do()
	if err == nil || r.Kind == OpWrite {
		r.Inode = inode
		j.put(r)
	}
	return err
}

func (j *journalWriter) sync(r Record, do func() error) error {
	j.mu.Lock()
	j.syncs++
	r.Sync = j.syncs
	j.put(r)
	j.mu.Unlock()
	err := j.fault(r)
	if err == nil {
		err = do()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	r.Done, r.Failed = err == nil, err != nil
	j.put(r)
	return err
}

// put needs mu.
func (j *journalWriter) put(r Record) {
	if j.dir == "" {
		return
	}
	now := monotonic()
	if j.file == nil {
		f, err := os.OpenFile(filepath.Join(j.dir, fmt.Sprintf("%d-%d.journal", now, os.Getpid())), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			j.die(err)
		}
		j.file, j.enc = f, gob.NewEncoder(&j.buf)
	}
	r.At, r.Path = now, absolute(r.Path)
	if r.Old != "" {
		r.Old = absolute(r.Old)
	}
	err := j.enc.Encode(r)
	if err == nil {
		_, err = j.file.Write(j.buf.Bytes())
	}
	if err != nil {
		j.die(err)
	}
	j.buf.Reset()
}

// die ends the process: without its journal it proves nothing.
func (j *journalWriter) die(err error) {
	fmt.Fprintln(os.Stderr, "journal of chaos:", err)
	os.Exit(99)
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return ts.Nano()
}

// TakeJournals reads the journals in dir, in the order in which things
// happened, and removes them. The processes that wrote them have ended; the
// last record of one that was killed may be torn and is left out then.
func TakeJournals(dir string) ([]Record, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil {
		return nil, err
	}
	var all []Record
	for _, name := range files {
		body, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		dec := gob.NewDecoder(bytes.NewReader(body))
		first := len(all)
		for {
			var r Record
			if err := dec.Decode(&r); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, r)
		}
		settleSyncs(all[first:])
		os.Remove(name)
	}
	slices.SortStableFunc(all, func(a, b Record) int { return cmp.Compare(a.At, b.At) })
	return all, nil
}

// settleSyncs tells the beginning of each sync of one process how it ended,
// and makes nothing of the record of its end. A sync that never ended is
// neither Done nor Failed.
func settleSyncs(records []Record) {
	begun := map[int64]*Record{}
	for i := range records {
		r := &records[i]
		if r.Sync == 0 {
			continue
		}
		if b := begun[r.Sync]; b != nil {
			b.Done, b.Failed = r.Done, r.Failed
			*r = Record{At: r.At}
			continue
		}
		begun[r.Sync] = r
	}
}
