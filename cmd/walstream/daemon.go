package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/receiver"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// daemon is one `walstream receive`: what the stream, the uploader and the
// slot tell each other passes through it.
type daemon struct {
	conf     *config.Loaded
	name     string // application_name
	log      zerolog.Logger
	until    wal.LSN // of --once-until, zero is for ever
	recv     *receiver.Receiver
	archived archivedEnd
	flushes  *flushTimes
	started  time.Time

	opened chan struct{} // closed when spool is set

	mu        sync.Mutex
	identity  segment.Identity
	spool     *segment.Spool
	arch      *archive.Archive
	up        *archive.Uploader
	archAway  *hint.Failure // why arch is not open, or was not
	spoolFull *hint.Failure // why spool is not open although there is one
	backup    *backupView   // the newest in arch
	gaps      []gapView
	losses    int  // files that were deleted from the spool
	complete  bool // archive and spool have no hole, see fillHoles

	newGap  chan struct{} // wakes closeGaps
	tailNow chan struct{} // with ack: archive, says that something waits for the archive
	doubt   chan struct{} // wakes fillHoles
}

func newDaemon(c *config.Loaded, log zerolog.Logger) *daemon {
	return &daemon{
		conf: c, log: log, flushes: newFlushTimes(), started: time.Now(),
		opened: make(chan struct{}), newGap: make(chan struct{}, 1), tailNow: make(chan struct{}, 1), doubt: make(chan struct{}, 1),
	}
}

// reopenSpool opens the spool of an earlier process, so that its WAL is
// archived even while there is no server to talk to.
func (d *daemon) reopenSpool() error {
	view, err := segment.ReadSpool(fsx.OS{}, d.conf.SpoolDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // first use: openSink makes it
	}
	if err != nil {
		return err
	}
	return d.openSpool(view.Identity)
}

func (d *daemon) openSpool(id segment.Identity) error {
	spool, err := segment.OpenSpool(segment.SpoolConfig{Dir: d.conf.SpoolDir, Identity: id, MaxSize: int64(d.conf.SpoolMax), OnFlush: d.flushes.observe, Log: d.log})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.spool, d.identity, d.archived.size = spool, id, id.SegmentSize
	close(d.opened)
	return nil
}

// openSink is called when the server has said who it is. At first use it pins
// the archive, then the spool; later both must be the server's.
func (d *daemon) openSink(ctx context.Context, id segment.Identity, slot receiver.SlotState) (receiver.Sink, error) {
	if spool := d.spoolOpen(); spool != nil {
		err := d.identity.Match("spool "+d.conf.SpoolDir, id)
		return d.sink(spool), hint.With(err, "give each cluster a spool and an archive of its own: --spool %s", hint.Quote(fmt.Sprintf("%s-%d", d.conf.SpoolDir, id.SystemIdentifier)))
	}
	arch, err := d.pinArchive(ctx, id, slot)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.arch = arch
	d.mu.Unlock()
	if err := d.openSpool(id); err != nil {
		return nil, err
	}
	return d.sink(d.spoolOpen()), nil
}

// sink is where received WAL goes.
func (d *daemon) sink(spool *segment.Spool) receiver.Sink {
	if d.conf.Ack == "archive" {
		return archivedSink{spool, d.tailNow}
	}
	return spool
}

// archivedSink is a spool that tells when WAL in it is durable.
type archivedSink struct {
	*segment.Spool
	synced chan<- struct{}
}

// Sync implements [receiver.Sink].
func (s archivedSink) Sync() (wal.LSN, error) {
	end, err := s.Spool.Sync()
	wake(s.synced)
	return end, err
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told already
	}
}

// pause waits; false says that ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// pinArchive opens the archive, or makes it. A slot that was moved says that
// there is one, with the WAL before it: spool and archive are not mounted then.
func (d *daemon) pinArchive(ctx context.Context, id segment.Identity, slot receiver.SlotState) (*archive.Archive, error) {
	made := slot.Moved(id.SegmentSize)
	store, err := locate(ctx, d.conf, !made, false)
	if err == nil && made {
		_, err = keys(d.conf).Open(ctx, store)
	}
	if err != nil && made {
		err = fmt.Errorf("slot %s was moved to %s, so an archive holds the WAL before: %w", slot.Name, slot.RestartLSN, err)
		return nil, hint.With(err, "if that archive is lost: walstream slot drop --slot %s && walstream receive --create-slot", slot.Name)
	}
	if err != nil {
		return nil, err
	}
	return keys(d.conf).Pin(ctx, store, id)
}

func (d *daemon) spoolOpen() *segment.Spool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.spool
}

// held is the newest timeline in the spool of an earlier process.
func (d *daemon) held() wal.Timeline {
	spool := d.spoolOpen()
	if spool == nil {
		return 0
	}
	have, _ := spool.Resume()
	return have.Timeline
}

func (d *daemon) uploading() *archive.Uploader {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.up
}

func (d *daemon) archiveResume(ctx context.Context, h segment.History, from wal.LSN) (segment.Position, bool, error) {
	arch, err := d.archiveOpen()
	if err != nil {
		return segment.Position{}, false, err
	}
	return archiveEnd(ctx, arch, h, from)
}

func (d *daemon) archiveOpen() (*archive.Archive, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.arch == nil {
		return nil, fmt.Errorf("archive %s is not open yet", d.conf.Archive)
	}
	return d.arch, nil
}

// archiveWAL moves WAL from the spool to the archive until ctx ends. An
// archive that cannot be reached is waited for; one of another cluster is an
// error.
func (d *daemon) archiveWAL(ctx context.Context) error {
	select {
	case <-d.opened:
	case <-ctx.Done():
		return nil
	}
	arch, err := d.awaitArchive(ctx)
	if err != nil {
		return err
	}
	d.lookBack(ctx, arch)
	tail := archive.TailConfig{Interval: d.conf.TailInterval, OnStored: d.tailStored}
	if d.conf.Ack == "archive" {
		tail.Now, tail.Window = d.tailNow, d.conf.AckWindow
	}
	up := d.uploader(arch, d.spool, tail, func(tli wal.Timeline, end wal.LSN) { d.confirmed(ctx, tli, end) })
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return up.Run(ctx) })
	g.Go(func() error { return d.watchBackups(ctx, arch) })
	g.Go(func() error { return d.closeGaps(ctx, arch) })
	g.Go(func() error { return d.fillHoles(ctx) })
	g.Go(func() error { return d.beat(ctx, arch) })
	return g.Wait()
}

// uploader makes the uploader that status tells of.
func (d *daemon) uploader(arch *archive.Archive, from archive.Source, tail archive.TailConfig, confirmed func(wal.Timeline, wal.LSN)) *archive.Uploader {
	up := archive.NewUploader(archive.UploaderConfig{Archive: arch, Source: from, Level: zstdLevel(d.conf.CompressionLevel), OnConfirmed: confirmed, OnLost: d.lost, Tail: tail, Log: d.log})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.arch, d.up = arch, up
	return up
}

// watchBackups looks each minute for the newest backup. It reads backups only
// when there are others than before.
func (d *daemon) watchBackups(ctx context.Context, arch *archive.Archive) error {
	var seen []string
	for more := true; more; more = pause(ctx, time.Minute) {
		var names []string
		var err error
		for info, lerr := range arch.Store().List(ctx, archive.BackupsPrefix, "") {
			names, err = append(names, info.Name), lerr
		}
		if err == nil && !slices.Equal(names, seen) {
			var last *backupView
			if last, err = lastBackup(ctx, arch); err == nil {
				seen = names
				d.mu.Lock()
				d.backup = last
				d.mu.Unlock()
			}
		}
		if err != nil && ctx.Err() == nil {
			d.log.Debug().Err(err).Msg("looking for backups")
		}
	}
	return nil
}

// awaitArchive opens the archive. Only first use, in openSink, may make one: a
// directory whose file system is not mounted looks like an empty archive.
func (d *daemon) awaitArchive(ctx context.Context) (*archive.Archive, error) {
	if arch, err := d.archiveOpen(); err == nil {
		return arch, nil
	}
	wait := backoff.NewExponentialBackOff()
	wait.MaxInterval = 30 * time.Second
	return backoff.Retry(ctx, func() (*archive.Archive, error) {
		arch, err := d.openArchive(ctx)
		if errors.As(err, new(*segment.ForeignError)) || errors.As(err, new(*archive.EncryptionError)) {
			err = backoff.Permanent(err)
		}
		return arch, err
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0), backoff.WithNotify(d.archiveAway))
}

func (d *daemon) openArchive(ctx context.Context) (*archive.Archive, error) {
	store, err := locate(ctx, d.conf, false, false)
	if err != nil {
		return nil, err
	}
	arch, err := keys(d.conf).Open(ctx, store)
	if err == nil {
		err = arch.Writable()
	}
	if err != nil {
		return nil, err
	}
	err = arch.Identity().Match("archive "+d.conf.Archive, d.identity)
	return arch, hint.With(err, "give each cluster an archive of its own: --archive %s", hint.Quote(fmt.Sprintf("%s-%d", d.conf.Archive, d.identity.SystemIdentifier)))
}

func (d *daemon) archiveAway(err error, _ time.Duration) {
	d.failing(&d.archAway, err, "the archive cannot be opened; WAL stays in the spool and on the server until it can")
}

// failing notes that a thing fails, and tells so the first time.
func (d *daemon) failing(thing **hint.Failure, err error, text string) {
	d.mu.Lock()
	news := *thing == nil
	*thing = (*thing).Again(err, time.Now())
	d.mu.Unlock()
	if news {
		d.log.Error().Err(err).Func(hint.Log(err)).Msg(text)
	}
}

// lookBack finds out how far the archive reached before this process.
func (d *daemon) lookBack(ctx context.Context, arch *archive.Archive) {
	pos, _, err := archiveEnd(ctx, arch, d.spool.NewestHistory(), 0)
	if err != nil {
		d.log.Warn().Err(err).Msg("how far the archive reaches is not known yet")
	}
	d.archived.begin(pos)
}

// lookAround finds out how far the archive reaches now that the stream has
// ended at end. One that holds no segment, although all is stored, begins with
// that in which end lies.
func (d *daemon) lookAround(ctx context.Context, h segment.History, end wal.LSN, stored bool) error {
	size := d.identity.SegmentSize
	from, _ := d.archived.lsn()
	if from == 0 && stored {
		from = size.Floor(end)
	}
	at, err := d.archiveCovers(ctx, h, segment.Position{Timeline: h.SegmentAt(from, size).Timeline, LSN: from})
	d.archived.reach(segment.Position{Timeline: h.Timeline, LSN: at})
	return err
}

// confirmed is told of each complete segment that is durable in the archive.
func (d *daemon) confirmed(ctx context.Context, tli wal.Timeline, end wal.LSN) {
	h := d.spool.NewestHistory()
	for stopped := range d.up.Status().Stopped {
		if _, onTheWay := h.StartOf(stopped); onTheWay {
			return // there may be a hole: the slot stays where it is
		}
	}
	if from, hole := d.archived.behind(h, tli, end); hole {
		at, err := covered(ctx, d.arch, h, from)
		if err != nil {
			d.log.Warn().Err(err).Msg("the slot is not moved: whether the archive has a hole is not known")
			return
		}
		d.archived.extend(at)
	}
	if since, to, ok := d.archived.confirm(h, tli, end); ok {
		d.recv.HoldSlot().Advance(since, segment.Position{Timeline: tli, LSN: to})
	}
}

func (d *daemon) close() error {
	if spool := d.spoolOpen(); spool != nil {
		return spool.Close()
	}
	return nil
}
