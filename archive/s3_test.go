package archive_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/testkit"
)

// bucket is the only one of the server that a test starts.
const bucket = "walstream"

// startS3 starts a server and gives the credentials for it to this process.
func startS3(t *testing.T) *testkit.S3 {
	t.Helper()
	os.Setenv("AWS_ACCESS_KEY_ID", testkit.S3Access) // the same for all tests
	os.Setenv("AWS_SECRET_ACCESS_KEY", testkit.S3Secret)
	return testkit.StartS3(t, bucket)
}

func openS3(t *testing.T, location string, cfg archive.S3Config) *archive.S3 {
	t.Helper()
	cfg.PathStyle = true
	s, err := archive.OpenS3(t.Context(), location, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestS3Store(t *testing.T) {
	t.Parallel()
	server := startS3(t)
	var n atomic.Int32
	for _, checksum := range []string{"auto", "required"} {
		t.Run(checksum, func(t *testing.T) {
			testStore(t, func(t *testing.T) archive.Store {
				return openS3(t, fmt.Sprintf("s3://%s/cluster%d", bucket, n.Add(1)), archive.S3Config{Endpoint: server.URL, Checksum: checksum})
			})
		})
	}
	t.Run("no prefix", func(t *testing.T) {
		testStore(t, func(t *testing.T) archive.Store {
			name := fmt.Sprintf("%s%d", bucket, n.Add(1))
			server.MakeBucket(t, name)
			return openS3(t, "s3://"+name, archive.S3Config{Endpoint: server.URL})
		})
	})
}
