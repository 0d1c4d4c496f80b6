package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/walstream/walstream/internal/crashpoint"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

const (
	heartbeatPrefix = StatePrefix + "receiver/"
	leaseName       = StatePrefix + "lease.json"
	// clockMargin is how much later than its time a commit may come into WAL:
	// the server reads its clock before it writes the record.
	clockMargin = 5 * time.Second
	// leaseTime is how long a lease lasts if its holder dies.
	leaseTime = 5 * time.Minute
)

// Heartbeat is a moment of a server of which all WAL is in the archive, as the
// receiver with that application_name noted it. It is an object below
// [StatePrefix] that changes about once a minute.
type Heartbeat struct {
	Receiver string       `json:"receiver"`
	Timeline wal.Timeline `json:"timeline"`
	// InsertLSN is where the server's WAL ended at Time by its clock,
	// whether written or not.
	InsertLSN wal.LSN   `json:"insert_lsn"`
	Time      time.Time `json:"time"`
	// FlushedLSN is up to where the receiver's spool held it when this was noted.
	FlushedLSN wal.LSN `json:"flushed_lsn"`
}

// Covers says whether a server whose WAL is known along h up to end, with all
// that ends there, has written no commit of time t or earlier behind that.
func (b Heartbeat) Covers(t time.Time, h segment.History, end wal.LSN) bool {
	return !t.After(b.Time.Add(-clockMargin)) && b.InsertLSN <= end && h.Contains(b.Timeline, b.InsertLSN)
}

func (b Heartbeat) object() string { return heartbeatPrefix + safeName(b.Receiver) + ".json" }

// PutHeartbeat replaces the heartbeat of this receiver.
func (a *Archive) PutHeartbeat(ctx context.Context, b Heartbeat) error {
	return a.replace(ctx, b.object(), func([]byte) (any, error) { return b, nil })
}

// Heartbeats lists what receivers have noted. One that is damaged is
// passed over: it proves nothing.
func (a *Archive) Heartbeats(ctx context.Context) ([]Heartbeat, error) {
	var all []Heartbeat
	for info, err := range a.store.List(ctx, heartbeatPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list heartbeats: %w", err)
		}
		body, err := readSmall(ctx, a.store, info.Name)
		if err != nil {
			return nil, err
		}
		var b Heartbeat
		if DecodeJSON(body, &b) == nil && b.object() == info.Name {
			all = append(all, b)
		}
	}
	return all, nil
}

// replace gives a mutable object the contents that change makes of the old
// ones, nil for none. [ErrChanged] says that another process was faster.
func (a *Archive) replace(ctx context.Context, name string, change func(old []byte) (any, error)) error {
	old, err := readSmall(ctx, a.store, name)
	if errors.Is(err, ErrNotExist) {
		old, err = nil, nil
	}
	if err != nil {
		return err
	}
	v, err := change(old)
	if err != nil {
		return err
	}
	body, err := EncodeJSON(v)
	if err != nil {
		return err
	}
	if err := a.store.Swap(ctx, name, old, body); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.StateSwapped)
	return nil
}

// lease says who does what only one of several processes should do.
type lease struct {
	Holder string    `json:"holder"`
	Until  time.Time `json:"until"`
}

// LeasedError says that another process holds the lease.
type LeasedError struct {
	Holder string
	Until  time.Time // by its clock; it may take it again
}

func (e *LeasedError) Error() string {
	return fmt.Sprintf("%s is at work, until %s at least", e.Holder, e.Until.Format(time.RFC3339))
}

// WithLease does work while holder has the archive's lease, which is renewed
// meanwhile; if it is lost, work's context ends. While somebody else has it, it
// fails with a [*LeasedError]. After a crash the lease ends by itself.
func (a *Archive) WithLease(ctx context.Context, holder string, work func(context.Context) error) error {
	if err := a.takeLease(ctx, holder, leaseTime); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	renew := time.NewTicker(leaseTime / 5)
	defer renew.Stop()
	for {
		select {
		case err := <-done:
			// Left behind, it only has to run out.
			_ = a.takeLease(context.WithoutCancel(ctx), holder, 0)
			return err
		case <-renew.C:
			if err := a.takeLease(ctx, holder, leaseTime); errors.As(err, new(*LeasedError)) {
				cancel(err)
			}
		}
	}
}

func (a *Archive) takeLease(ctx context.Context, holder string, lasts time.Duration) error {
	err := a.replace(ctx, leaseName, func(old []byte) (any, error) {
		var have lease
		now := time.Now().UTC()
		_ = DecodeJSON(old, &have) // of a damaged one counts what can be read: somebody may have it
		if have.Holder != holder && have.Until.After(now) {
			return nil, &LeasedError{have.Holder, have.Until}
		}
		return lease{Holder: holder, Until: now.Add(lasts)}, nil
	})
	if errors.Is(err, ErrChanged) {
		err = &LeasedError{"another process", time.Now().Add(leaseTime)}
	}
	return err
}

// safeName is name with underscores for the bytes that object names cannot
// have.
func safeName(name string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, name)
}
