package archive

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/walstream/walstream/wal"
)

// pointsPrefix holds one object for each named restore point.
const pointsPrefix = "points/"

// RestorePoint is a named restore point as the archive keeps it, so that it
// can be found without reading WAL.
type RestorePoint struct {
	Name     string       `json:"name"`
	LSN      wal.LSN      `json:"lsn"`      // end of the record
	Timeline wal.Timeline `json:"timeline"` // of the record, or of the segment that holds it
	Time     time.Time    `json:"time"`     // the server's clock
}

// object is the name under which the point is noted. Bytes that object names
// cannot have become underscores; the contents hold the name itself.
func (p RestorePoint) object() string {
	return pointsPrefix + LSNHex(p.LSN) + "-" + safeName(p.Name) + ".json"
}

// PutRestorePoint notes a restore point durably, if it is not noted yet.
func (a *Archive) PutRestorePoint(ctx context.Context, p RestorePoint) error {
	return a.putJSON(ctx, p.object(), p)
}

// putAndNote stores a piece of WAL, and notes the restore points of a whole
// segment: before it counts as stored, so that a reader that finds a name noted
// need not look for others of that name.
func (a *Archive) putAndNote(ctx context.Context, p Piece, h *Header, data io.ReaderAt, level zstd.EncoderLevel) error {
	if err := a.PutSegment(ctx, p, h, data, level); err != nil || p.Tail {
		return err
	}
	for _, r := range h.RestorePoints {
		if err := a.PutRestorePoint(ctx, RestorePoint{Name: r.Name, LSN: r.End, Timeline: h.Timeline, Time: r.Time}); err != nil {
			return err
		}
	}
	return nil
}

// RestorePoints finds the restore points of that name that were noted, in the
// order of their LSNs.
func (a *Archive) RestorePoints(ctx context.Context, name string) ([]RestorePoint, error) {
	var points []RestorePoint
	suffix := strings.TrimPrefix(RestorePoint{Name: name}.object(), pointsPrefix+LSNHex(0))
	for info, err := range a.store.List(ctx, pointsPrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list restore points: %w", err)
		}
		if !strings.HasSuffix(info.Name, suffix) {
			continue
		}
		body, err := readSmall(ctx, a.store, info.Name)
		if err != nil {
			return nil, err
		}
		var p RestorePoint
		err = DecodeJSON(body, &p)
		if err == nil && p.object() != info.Name {
			err = fmt.Errorf("that of %s", p.object())
		}
		if err != nil {
			return nil, &CorruptError{Object: info.Name, What: "JSON", Have: err.Error(), Want: "a restore point"}
		}
		if p.Name == name {
			points = append(points, p)
		}
	}
	return points, nil
}
