//go:build matrix

package backup

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/walstream/walstream/internal/testkit"
	"github.com/walstream/walstream/internal/testkit/memstore"
)

// TestImportMatrix imports backups of each major version that the machine's
// pg_basebackup can read: it refuses servers that are newer than itself.
func TestImportMatrix(t *testing.T) {
	client := testkit.BinDir(t)
	for _, major := range testkit.Majors(t) {
		if major > 15 {
			continue
		}
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			c := testkit.Start(t, testkit.Config{Major: major, SegmentSizeMB: 1, Settings: []string{"wal_keep_size = 1GB"}})
			for _, args := range [][]string{{"-Ft", "-z"}, {"-Fp"}, {"-Ft", "-X", "fetch", "--manifest-checksums=SHA512"}, {"-Fp", "--manifest-checksums=NONE"}} {
				dir := filepath.Join(testkit.Dir(t), "base")
				testkit.Run(t, filepath.Join(client, "pg_basebackup"), append([]string{"-d", c.Conninfo(), "-c", "fast", "-D", dir}, args...)...)
				a := pinned(t, c, memstore.New())
				f := found(t, a, dir)
				commit, _, err := Import(t.Context(), ImportConfig{Archive: a, PartSize: 1 << 20}, f.Backups[0])
				if err != nil {
					t.Fatalf("%v: %v", args, err)
				}
				if err := checkWhole(a, commit); err != nil || commit.MajorVersion != major {
					t.Errorf("%v: %+v, %v", args, commit, err)
				}
			}
		})
	}
}
