package backup

import (
	"fmt"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/pg"
)

// Checkpoint says how PostgreSQL does the checkpoint that starts a backup.
type Checkpoint string

const (
	// Fast writes everything at once.
	Fast Checkpoint = "fast"
	// Spread takes its time (checkpoint_completion_target) and spares the
	// disk; the backup begins only afterwards.
	Spread Checkpoint = "spread"
)

const (
	defaultPartSize   = 256 << 20
	defaultWALTimeout = 10 * time.Minute
	// The limits of MAX_RATE, in KiB a second.
	minRate, maxRate = 32, 1 << 20
)

// Config describes a backup to take.
type Config struct {
	// Server leads to the primary; a standby is refused.
	Server  pg.Options
	Archive *archive.Archive

	// Label is kept in the backup and its backup_label file. Empty means
	// "walstream".
	Label string
	// Checkpoint is Fast or Spread; empty means Spread.
	Checkpoint Checkpoint
	// MaxRate limits the bytes a second that the server sends; 0 is no limit.
	MaxRate int64
	// Level is the effort of compression; zero means the fastest.
	Level zstd.EncoderLevel
	// PartSize is after how many plain bytes a new part begins; zero means
	// 256 MiB. A larger file makes a larger part.
	PartSize int64
	// WALTimeout is how long to wait for the WAL of the backup to arrive in
	// the archive; zero means 10 minutes.
	WALTimeout time.Duration
	// Progress, if set, is told the plain bytes done and the server's
	// estimate of the total, often, from the goroutine that called Take.
	// More may come than was estimated.
	Progress func(done, total int64)
	Now      func() time.Time // nil: time.Now
	Log      zerolog.Logger
}

func (c *Config) complete() error {
	if c.Label == "" {
		c.Label = "walstream"
	}
	if strings.ContainsFunc(c.Label, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("label %q holds control characters", c.Label)
	}
	if c.Checkpoint == "" {
		c.Checkpoint = Spread
	}
	if c.Checkpoint != Fast && c.Checkpoint != Spread {
		return fmt.Errorf("checkpoint %q: want fast or spread", c.Checkpoint)
	}
	if kib := c.MaxRate >> 10; c.MaxRate != 0 && (kib < minRate || kib > maxRate) {
		return fmt.Errorf("max rate of %d bytes a second: PostgreSQL takes 32 KiB to 1 GiB", c.MaxRate)
	}
	if c.PartSize == 0 {
		c.PartSize = defaultPartSize
	}
	if c.WALTimeout == 0 {
		c.WALTimeout = defaultWALTimeout
	}
	if c.Progress == nil {
		c.Progress = func(int64, int64) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Server.AllowStandby = false
	return nil
}
