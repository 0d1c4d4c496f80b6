package recovery

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/walstream/walstream/internal/controlfile"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// Remote is a [Server] that is asked instead of an archive.
type Remote struct {
	URL    string // without a slash at the end
	Token  string // for the Authorization header; empty means none
	Client *http.Client
}

// remoteSilence is how long a [Remote] may send nothing.
const remoteSilence = time.Minute

var errSilent = fmt.Errorf("nothing came for %s", remoteSilence)

// remote answers once with what the server says, if that is beyond doubt.
func (g *walGet) remote(ctx context.Context) (out Outcome, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := time.AfterFunc(remoteSilence, func() { cancel(errSilent) })
	defer alarm.Stop()
	target := g.cfg.From.URL + "/wal/" + g.file
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", target, err)
		}
	}()
	resp, err := g.cfg.From.get(ctx, target)
	if err != nil {
		return Trouble, err
	}
	defer resp.Body.Close()
	body := readerFunc(func(p []byte) (int, error) {
		alarm.Reset(remoteSilence)
		return resp.Body.Read(p)
	})
	outcome := resp.Header.Get(outcomeHeader)
	delivered := resp.StatusCode == http.StatusOK && outcome == "delivered"
	if !delivered && (resp.StatusCode != http.StatusNotFound || outcome != "absent") {
		text, _ := io.ReadAll(io.LimitReader(body, 1000)) // only to tell more
		return Trouble, fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	if err := g.sameCluster(resp.Header.Get(clusterHeader)); err != nil {
		return Trouble, err
	}
	switch {
	case !delivered && g.ahead:
		return Trouble, errNotHere
	case !delivered:
		return g.remoteAbsent()
	}
	out, err = g.deliver(func(f *os.File) error { return g.receive(f, body, resp.Header) })
	if errors.Is(err, errOwn) {
		out = Absent
	}
	return out, err
}

func (r *Remote) get(ctx context.Context, target string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Cache-Control", "no-cache")
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	resp, err := r.Client.Do(req)
	var e *url.Error
	if errors.As(err, &e) {
		err = e.Err // the rest says what is asked for
	}
	return resp, err
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// sameCluster reads of which cluster the server is. That must be the one of
// the plan in the side directory, if there is one, and of the data directory
// that the file is for.
func (g *walGet) sameCluster(header string) error {
	var have segment.Identity
	if err := json.Unmarshal([]byte(header), &have); err != nil || !have.SegmentSize.Valid() {
		return fmt.Errorf("%s: %q", clusterHeader, header)
	}
	control, err := os.ReadFile(filepath.Join(g.wal, "..", controlfile.Path))
	switch {
	case errors.Is(err, fs.ErrNotExist): // called by hand
	case err != nil:
		return err
	case len(control) < 8:
		return errors.New(controlfile.Path + " is cut off")
	default:
		want := have
		want.SystemIdentifier = binary.LittleEndian.Uint64(control)
		if err := have.Match("the archive", want); err != nil {
			return err
		}
	}
	g.view = &segment.SpoolView{Identity: have}
	return g.openSpool(have)
}

// remoteAbsent is Absent, unless the plan says otherwise: the server has none.
func (g *walGet) remoteAbsent() (Outcome, error) {
	err := errors.New("the server says that it does not exist")
	if g.plan == nil {
		return Absent, err
	}
	required := g.plan.Timeline > 1 && g.file == segment.HistoryName(g.plan.Timeline)
	if id, perr := segment.ParseName(g.file, g.plan.Identity.SegmentSize); perr == nil {
		required, _ = g.plan.Required(id)
	}
	if required {
		return Trouble, fmt.Errorf("the plan needs it: %w", err)
	}
	return Absent, err
}

// receive writes the file to f and verifies it.
func (g *walGet) receive(f *os.File, body io.Reader, h http.Header) error {
	size := int64(g.view.Identity.SegmentSize)
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(body, size+1))
	if err != nil {
		return err
	}
	if have, want := digest(sum.Sum(nil)), h.Get(digestHeader); have != want {
		return fmt.Errorf("%s of %d bytes is %q, not %q", digestHeader, n, have, want)
	}
	if tli, err := segment.ParseHistoryName(g.file); err == nil {
		history, err := os.ReadFile(f.Name())
		if err == nil {
			_, err = segment.ParseHistory(tli, history)
		}
		return err
	}
	id, err := segment.ParseName(g.file, g.view.Identity.SegmentSize)
	if err == nil && n != size {
		err = fmt.Errorf("it has %d bytes, not %d", n, size)
	}
	if err != nil {
		return err
	}
	padded, err := strconv.ParseInt(h.Get(paddedHeader), 10, 64)
	if err != nil || padded < 0 || padded >= size {
		return fmt.Errorf("%s: %q", paddedHeader, h.Get(paddedHeader))
	}
	if g.ahead && padded > 0 {
		return errNotHere
	}
	return g.checkReceived(f, id, padded)
}

// checkReceived reads a segment as PostgreSQL will. Of one that is padded that
// much must be enough.
func (g *walGet) checkReceived(f *os.File, id segment.ID, padded int64) error {
	identity := g.view.Identity
	end := cmp.Or(padded, int64(identity.SegmentSize))
	if _, err := io.Copy(wal.NewScanner(identity.ScanConfig(id)), io.NewSectionReader(f, 0, end)); err != nil || padded == 0 {
		return err
	}
	required, whole := g.needed(id)
	if to := id.Start(identity.SegmentSize) + wal.LSN(end); required && (whole || to < min(g.plan.Need, id.End(identity.SegmentSize))) {
		return fmt.Errorf("the server has it up to %s only, the plan needs more", to)
	}
	return g.ownIsLonger(id, end)
}
