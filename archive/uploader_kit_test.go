package archive_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit/memfs"
	"github.com/walstream/walstream/internal/testkit/memstore"
	"github.com/walstream/walstream/internal/testkit/walgen"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// faulty is a store of which a test decides what fails, and that notes the
// order of successful puts.
type faulty struct {
	*memstore.Store
	onPut    func(name string) error // before a put
	onDelete func(name string) error

	mu   sync.Mutex
	puts []string
}

func (f *faulty) Put(ctx context.Context, name string, body io.Reader) error {
	if f.onPut != nil {
		if err := f.onPut(name); err != nil {
			return err
		}
	}
	err := f.Store.Put(ctx, name, body)
	if err == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.puts = append(f.puts, name)
	}
	return err
}

func (f *faulty) Delete(ctx context.Context, name string) error {
	if f.onDelete != nil {
		if err := f.onDelete(name); err != nil {
			return err
		}
	}
	return f.Store.Delete(ctx, name)
}

// upload is a spool, an archive and an uploader between them.
type upload struct {
	t       *testing.T
	disk    *memfs.FS
	spool   *segment.Spool
	store   *faulty
	a       *archive.Archive
	up      *archive.Uploader
	confirm []string // what OnConfirmed was told
}

func newUpload(t *testing.T) *upload {
	t.Helper()
	disk := memfs.New()
	spool, err := segment.OpenSpool(segment.SpoolConfig{Dir: "/spool", FS: disk, Identity: testCluster})
	if err != nil {
		t.Fatal(err)
	}
	store := &faulty{Store: memstore.New()}
	a, err := archive.Pin(t.Context(), store, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	u := &upload{t: t, disk: disk, spool: spool, store: store, a: a}
	u.up = archive.NewUploader(archive.UploaderConfig{Archive: a, Source: spool, OnConfirmed: func(tli wal.Timeline, lsn wal.LSN) {
		u.confirm = append(u.confirm, fmt.Sprintf("%s:%s", tli, lsn))
	}})
	return u
}

// receive puts all of g's WAL into the spool.
func (u *upload) receive(g *walgen.WAL) {
	u.t.Helper()
	u.must(u.spool.Begin(g.Config.Timeline, g.Config.Start))
	u.must(u.spool.Append(g.Config.Timeline, g.Config.Start, g.Bytes))
	_, err := u.spool.Sync()
	u.must(err)
}

// end ends a timeline in the spool.
func (u *upload) end(tli wal.Timeline, lsn wal.LSN) {
	u.t.Helper()
	_, err := u.spool.EndTimeline(tli, lsn)
	u.must(err)
}

func (u *upload) must(err error) {
	u.t.Helper()
	if err != nil {
		u.t.Fatal(err)
	}
}

// run uploads until nothing moves any more, then lets some time pass for
// retries, and stops. It is called inside a synctest bubble.
func (u *upload) run(d time.Duration) {
	u.t.Helper()
	ctx, cancel := context.WithCancelCause(u.t.Context())
	done := errors.New("done")
	result := make(chan error)
	go func() { result <- u.up.Run(ctx) }()
	synctest.Wait()
	time.Sleep(d)
	synctest.Wait()
	cancel(done)
	if err := <-result; !errors.Is(err, done) {
		u.t.Errorf("Run: %v, want the cause of the end", err)
	}
}

func (u *upload) objects() []string {
	var names []string
	for info, err := range u.store.List(u.t.Context(), "", "") {
		u.must(err)
		names = append(names, strings.TrimPrefix(info.Name, "wal/"))
	}
	return names
}

func (u *upload) wantConfirmed(want ...string) {
	u.t.Helper()
	if diff := cmp.Diff(want, u.confirm); diff != "" {
		u.t.Errorf("confirmed (-want +got):\n%s", diff)
	}
}

// waiting is what a new process would find in the spool to be archived.
func (u *upload) waiting() int { return u.spool.Usage().Waiting }
