package archive

import (
	"context"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/walstream/walstream/internal/hint"
)

// Locate opens the store at location: an absolute path, a file:// URL, or one
// like s3://bucket/prefix, which is reached as cfg says. With create a missing
// directory is made, otherwise it is an error; a bucket has to be there.
func Locate(ctx context.Context, location string, create bool, cfg S3Config) (Store, error) {
	path := location
	if scheme, _, ok := strings.Cut(location, "://"); ok {
		u, err := url.Parse(location)
		switch {
		case err != nil:
			return nil, hint.Errorf("use a path or URL like file:///var/lib/walstream/archive", "archive %q is no URL: %v", location, err)
		case scheme == "s3":
			bucket, err := OpenS3(ctx, location, cfg)
			if err != nil {
				return nil, err // not bucket: a nil *S3 is no nil Store
			}
			return bucket, nil
		case scheme != "file":
			return nil, hint.Errorf("use a path, or a URL like s3://bucket/prefix", "archive %s: unknown kind of location %q", location, scheme)
		case u.Host != "" && u.Host != "localhost" || u.RawQuery != "" || u.Fragment != "":
			return nil, hint.Errorf("use three slashes: file:///var/lib/walstream/archive", "archive %s names more than a path", location)
		}
		path = u.Path
	}
	if !filepath.IsAbs(path) {
		if abs, err := filepath.Abs(path); err == nil {
			return nil, hint.Errorf("write "+abs, "archive %q is not an absolute path", location)
		}
	}
	dir, err := OpenDir(DirConfig{Path: path, Create: create})
	if err != nil {
		return nil, err // not dir: a nil *Dir is no nil Store
	}
	return dir, nil
}
