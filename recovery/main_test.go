package recovery

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/walstream/walstream/archive"
)

// TestMain lets PostgreSQL run this very program as its restore_command.
func TestMain(m *testing.M) {
	if len(os.Args) == 8 && os.Args[1] == "wal-get" {
		os.Exit(walGetMain(os.Args[3], os.Args[5], os.Args[6], os.Args[7]))
	}
	goleak.VerifyTestMain(m)
}

func walGetMain(location, spool, file, path string) int {
	out, err := WalGet(context.Background(), WalGetConfig{
		Open: func(ctx context.Context) (*archive.Archive, error) {
			store, err := archive.Locate(ctx, location, false, archive.S3Config{})
			if err != nil {
				return nil, err
			}
			return archive.Open(ctx, store)
		},
		Spool:    spool,
		RetryFor: 2 * time.Second,
	}, file, path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return out.ExitCode()
}
