package receiver

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

const mib = 0x100000

// testWAL is bytes that differ everywhere.
func testWAL(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + i>>16)
	}
	return b
}

// stuckSink is a sink whose Sync or Append waits until it is let go.
type stuckSink struct {
	Sink
	sync, append chan struct{} // closed: let go; nil: never stuck
}

func (s *stuckSink) Sync() (wal.LSN, error) {
	if s.sync != nil {
		<-s.sync
	}
	return s.Sink.Sync()
}

func (s *stuckSink) Append(tli wal.Timeline, lsn wal.LSN, p []byte) error {
	if s.append != nil {
		<-s.append
	}
	return s.Sink.Append(tli, lsn, p)
}

// TestNothingAcknowledgedBeforeSync: while the disk hangs, keepalives are
// answered, and no flush position is reported.
func TestNothingAcknowledgedBeforeSync(t *testing.T) {
	release := make(chan struct{})
	data := testWAL(5000)
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.wal(mib, data)
		for range 3 {
			s.keepalive(mib + 5000)
			if err := s.until(func(st status) bool {
				if st.flush != 0 {
					t.Errorf("acknowledged %s before the disk answered", st.flush)
				}
				return !st.reply && st.write == mib+5000
			}); err != nil {
				t.Error(err)
			}
		}
		close(release)
		s.flushed(mib + 5000)
		s.linger()
	})
	g := newRig(t, spoolDir(t), rigConfig(f.conninfo()), func(s Sink) Sink { return &stuckSink{Sink: s, sync: release} })
	g.waitFlushed(mib + 5000)
	g.stop()
}

// TestStatusWhileAppendHangs: a full spool stops the reading, not the status.
func TestStatusWhileAppendHangs(t *testing.T) {
	release := make(chan struct{})
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.wal(mib, testWAL(100))
		for range 3 {
			if _, err := s.status(); err != nil {
				t.Error(err)
			}
		}
		close(release)
		s.flushed(mib + 100)
		s.linger()
	})
	cfg := rigConfig(f.conninfo())
	cfg.StatusInterval = 20 * time.Millisecond
	g := newRig(t, spoolDir(t), cfg, func(s Sink) Sink { return &stuckSink{Sink: s, append: release} })
	g.waitFlushed(mib + 100)
	g.stop()
}

// TestCutWithinMessage: a connection that breaks within a message costs
// nothing but the time: the next stream starts at the segment's start, and
// messages that straddle the segments' border are split.
func TestCutWithinMessage(t *testing.T) {
	data := testWAL(mib + 3000)
	const part = 100_000
	f := newFake(t,
		func(s *fakeStream) {
			s.copyBoth()
			s.wal(mib, data[:part])
			s.flushed(mib + part)
			whole := xlog(mib+part, data[part:2*part])
			s.send(whole[:len(whole)/2])
			s.conn.Close()
		},
		func(s *fakeStream) {
			s.copyBoth()
			for at := 0; at < len(data); at += part {
				s.wal(mib+wal.LSN(at), data[at:min(at+part, len(data))])
			}
			s.flushed(mib + wal.LSN(len(data)))
			s.linger()
		})
	f.flush = 3 * mib
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(f.conninfo()), nil)
	g.waitFlushed(mib + wal.LSN(len(data)))
	g.stop()
	want := []string{"START_REPLICATION PHYSICAL 0/100000 TIMELINE 1", "START_REPLICATION PHYSICAL 0/100000 TIMELINE 1"}
	if diff := cmp.Diff(want, f.commands()); diff != "" {
		t.Error(diff)
	}
	if got := readFile(t, filepath.Join(dir, segment.ID{Timeline: 1, No: 1}.Name(mib))); !bytes.Equal(got, data[:mib]) {
		t.Error("the first segment differs from what was sent")
	}
	if got := readFile(t, filepath.Join(dir, segment.ID{Timeline: 1, No: 2}.Name(mib)+".partial")); !bytes.Equal(got[:3000], data[mib:]) {
		t.Error("the second segment differs from what was sent")
	}
}

// TestSilentServer: a server that sends no keepalives is asked for signs of
// life, and left when it gives none.
func TestSilentServer(t *testing.T) {
	asked := make(chan struct{}, 100)
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.until(func(st status) bool {
			if st.reply {
				asked <- struct{}{}
			}
			return false
		})
	})
	cfg := rigConfig(f.conninfo())
	cfg.SilenceTimeout = 200 * time.Millisecond
	g := newRig(t, spoolDir(t), cfg, nil)
	g.wait("a second try", func(st Status) bool {
		return len(f.commands()) > 1 && strings.Contains(st.Failure.String(), "no message for 200ms")
	})
	if len(asked) < 2 {
		t.Errorf("the server was asked %d times for an answer", len(asked))
	}
	g.stop()
}

// TestPingAnswered: answers to pings are enough to stay.
func TestPingAnswered(t *testing.T) {
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.until(func(st status) bool {
			if st.reply {
				s.keepalive(mib)
			}
			return false
		})
	})
	cfg := rigConfig(f.conninfo())
	cfg.SilenceTimeout = 400 * time.Millisecond
	g := newRig(t, spoolDir(t), cfg, nil)
	began := time.Now()
	g.wait("three times the timeout", func(Status) bool { return time.Since(began) > 3*cfg.SilenceTimeout })
	if n := len(f.commands()); n != 1 {
		t.Errorf("%d connections, want 1: %+v", n, g.Status())
	}
	g.cancel()
}

// TestServerBehind: a server that has less than what is durable is asked for
// nothing, however often it is tried.
func TestServerBehind(t *testing.T) {
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.wal(mib, testWAL(1000))
		s.flushed(mib + 1000)
		s.set(func() { s.flush = mib + 500 })
	})
	f.flush = mib + 1000
	g := newRig(t, spoolDir(t), rigConfig(f.conninfo()), nil)
	g.wait("the alarm", func(st Status) bool { return st.Alarm != "" && st.Reconnects > 2 })
	if n := len(f.commands()); n != 1 {
		t.Errorf("%d streams, want 1", n)
	}
	g.stop()
}

// TestBranchLeavesNoTrace: the address leads to a server on another branch, as
// a clone for a test. Its history stays out of the spool, from where it would
// get into the archive and be the latest one there, and the slot goes by the
// history of the right server.
func TestBranchLeavesNoTrace(t *testing.T) {
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.wal(mib, testWAL(1000))
		s.flushed(mib + 1000)
		s.set(func() { s.timeline, s.histories = 3, map[wal.Timeline]string{3: "1\t0/90000\tclone\n"} })
	})
	f.timeline, f.flush, f.histories = 2, mib+1000, map[wal.Timeline]string{2: "1\t0/80000\tpromoted\n"}
	g := newRig(t, spoolDir(t), rigConfig(f.conninfo()), nil)
	g.wait("the alarm", func(st Status) bool { return st.Alarm != "" && st.Reconnects > 2 })
	if diff := cmp.Diff([]wal.Timeline{2}, slices.Sorted(maps.Keys(g.sink().Histories()))); diff != "" {
		t.Errorf("histories in the spool: %s", diff)
	}
	g.HoldSlot().Advance(0, segment.Position{Timeline: 2, LSN: mib})
	if got := g.HoldSlot().allowed(2); got != mib {
		t.Errorf("the slot may move to %s, want %s", got, wal.LSN(mib))
	}
	g.stop()
}

// TestForeignServer: the address leads to another cluster all of a sudden.
func TestForeignServer(t *testing.T) {
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.wal(mib, testWAL(1000))
		s.flushed(mib + 1000)
		s.set(func() { s.system++ })
	})
	f.flush = mib + 1000
	g := newRig(t, spoolDir(t), rigConfig(f.conninfo()), nil)
	var foreign *segment.ForeignError
	if err := g.ended(); !errors.As(err, &foreign) {
		t.Errorf("Run returned %v", err)
	}
	if n := len(f.commands()); n != 1 {
		t.Errorf("%d streams, want 1", n)
	}
}

// TestTimelineSwitch plays the end of timeline 1 at a segment's border and
// within a segment: its rest is asked for, then timeline 2 from the start of
// the segment of the fork. At the border nothing is left to ask for.
func TestTimelineSwitch(t *testing.T) {
	for name, fork := range map[string]wal.LSN{"border": 2 * mib, "within": 2*mib + 4096} {
		t.Run(name, func(t *testing.T) {
			data := testWAL(int(fork-mib) + 100)
			f := newFake(t,
				func(s *fakeStream) {
					s.copyBoth()
					s.wal(mib, data[:mib]) // up to the border
					s.flushed(2 * mib)
					s.set(func() {
						s.timeline, s.flush = 2, fork+100
						s.histories = map[wal.Timeline]string{2: "1\t" + fork.String() + "\tno recovery target specified\n\n"}
					})
				},
				func(s *fakeStream) {
					s.copyBoth()
					from := 2 * mib
					s.wal(2*mib, data[from-mib:fork-mib])
					if strings.HasSuffix(s.command, "TIMELINE 1") {
						s.switched(2, fork)
						return
					}
					s.wal(fork, data[fork-mib:])
					s.flushed(fork + 100)
					s.linger()
				},
				func(s *fakeStream) {
					s.copyBoth()
					s.wal(2*mib, data[mib:])
					s.flushed(fork + 100)
					s.linger()
				})
			g := newRig(t, spoolDir(t), rigConfig(f.conninfo()), nil)
			g.wait("timeline 2", func(st Status) bool { return st.Timeline == 2 && st.Flushed == fork+100 })
			g.stop()
			want := []string{"START_REPLICATION PHYSICAL 0/100000 TIMELINE 1"}
			if name == "within" {
				want = append(want, "START_REPLICATION PHYSICAL 0/200000 TIMELINE 1")
			}
			want = append(want, "START_REPLICATION PHYSICAL 0/200000 TIMELINE 2")
			if diff := cmp.Diff(want, f.commands()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestAheadOfForkAfterCrash: a new receiver crashed in its first segment, which
// begins within a record, and the primary is lost. What it had beyond the
// standby that takes over is reported all the same.
func TestAheadOfForkAfterCrash(t *testing.T) {
	id := segment.Identity{SystemIdentifier: 42, MajorVersion: 15, SegmentSize: mib}
	g := walgen.New(id.ScanConfig(segment.At(1, mib, mib)), 1)
	g.Noise(mib)
	g.Fill(2*mib + 300_000)
	fork := g.End()
	g.Fill(2*mib + 500_000)
	end := g.End()

	dir := spoolDir(t)
	cfg := segment.SpoolConfig{Dir: dir, Identity: id}
	spool, err := segment.OpenSpool(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(spool.Begin(1, 2*mib), spool.Append(1, 2*mib, g.At(2*mib, end)), spool.Close()); err != nil {
		t.Fatal(err)
	}
	f := newFake(t,
		func(s *fakeStream) {
			s.copyBoth()
			s.wal(2*mib, g.At(2*mib, fork))
			s.switched(2, fork)
		},
		func(s *fakeStream) {
			s.copyBoth()
			s.wal(2*mib, g.At(2*mib, fork))
			s.flushed(fork)
			s.linger()
		})
	f.timeline, f.flush = 2, fork
	f.histories = map[wal.Timeline]string{2: "1\t" + fork.String() + "\tno recovery target specified\n"}
	r := newRig(t, dir, rigConfig(f.conninfo()), nil)
	r.wait("timeline 2", func(st Status) bool { return st.Timeline == 2 && st.Flushed == fork })
	if diff := cmp.Diff(&Orphan{Timeline: 1, Fork: fork, End: end}, r.Status().Orphan); diff != "" {
		t.Error(diff)
	}
	r.stop()
}

// TestNoCopyBoth: the server answers START_REPLICATION with the result row
// alone, as it does at the very end of an old timeline. There is no such
// question here, so the answer is an error, and no reason to spin.
func TestNoCopyBoth(t *testing.T) {
	f := newFake(t, func(s *fakeStream) {
		row(s.b, "2", "0/100000")
		s.complete()
	})
	g := newRig(t, spoolDir(t), rigConfig(f.conninfo()), nil)
	g.wait("the error", func(st Status) bool { return strings.Contains(st.Failure.String(), "not at its end") })
	if n := len(f.commands()); n > 5 {
		t.Errorf("%d tries at once", n)
	}
	g.stop()
}

// TestStopAcknowledgesAll: at a stop all that came is made durable and
// acknowledged before CopyDone, and what comes after that is made durable.
func TestStopAcknowledgesAll(t *testing.T) {
	var mu sync.Mutex
	var last status
	var left error
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.wal(mib, testWAL(77))
		err := s.until(func(st status) bool { mu.Lock(); defer mu.Unlock(); last = st; return false })
		mu.Lock()
		left = err
		mu.Unlock()
		s.wal(mib+77, testWAL(23)) // was under way
		s.b.Send(&pgproto3.CopyDone{})
		s.complete()
	})
	release := make(chan struct{})
	g := newRig(t, spoolDir(t), rigConfig(f.conninfo()), func(s Sink) Sink { return &stuckSink{Sink: s, sync: release} })
	g.wait("the data", func(st Status) bool { return st.Received == mib+77 })
	g.cancel()
	close(release)
	g.stop()
	mu.Lock()
	defer mu.Unlock()
	if last.flush != mib+77 || !errors.Is(left, errCopyDone) {
		t.Errorf("the last status was %+v, then %v", last, left)
	}
	if st := g.Status(); st.Flushed != mib+100 {
		t.Errorf("durable at the end is %s, want all that came", st.Flushed)
	}
}

// failingSink fails its Sync.
type failingSink struct{ Sink }

func (failingSink) Sync() (wal.LSN, error) { return mib + 100, io.ErrShortWrite }

// TestSinkFailure: an error of the disk ends Run, and nothing is acknowledged
// after it.
func TestSinkFailure(t *testing.T) {
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.wal(mib, testWAL(100))
		s.until(func(st status) bool {
			if st.flush != 0 {
				t.Errorf("acknowledged %s", st.flush)
			}
			return false
		})
	})
	g := newRig(t, spoolDir(t), rigConfig(f.conninfo()), func(s Sink) Sink { return failingSink{s} })
	if err := g.ended(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("Run returned %v", err)
	}
}

// TestTLS: the connection is taken over from the driver with its encryption.
func TestTLS(t *testing.T) {
	data := testWAL(300_000)
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.wal(mib, data)
		s.flushed(mib + 300_000)
		s.linger()
	})
	f.tls = &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	dir := spoolDir(t)
	g := newRig(t, dir, rigConfig(strings.Replace(f.conninfo(), "sslmode=disable", "sslmode=require", 1)), nil)
	g.waitFlushed(mib + 300_000)
	g.stop()
	if got := readFile(t, filepath.Join(dir, segment.ID{Timeline: 1, No: 1}.Name(mib)+".partial")); !bytes.Equal(got[:300_000], data) {
		t.Error("the segment differs from what was sent")
	}
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestWrongPosition: a stream that does not continue is not stored.
func TestWrongPosition(t *testing.T) {
	f := newFake(t, func(s *fakeStream) {
		s.copyBoth()
		s.wal(mib+8, testWAL(100))
		s.linger()
	})
	g := newRig(t, spoolDir(t), rigConfig(f.conninfo()), nil)
	g.wait("the refusal", func(st Status) bool { return strings.Contains(st.Failure.String(), "want 0/100000") })
	g.stop()
}
