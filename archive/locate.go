package archive

import (
	"net/url"
	"path/filepath"
	"strings"

	"github.com/walstream/walstream/internal/hint"
)

// Locate opens the store at location: an absolute path or a file:// URL. With
// create a missing directory is made, otherwise it is an error.
func Locate(location string, create bool) (Store, error) {
	path := location
	if scheme, _, ok := strings.Cut(location, "://"); ok {
		u, err := url.Parse(location)
		switch {
		case err != nil:
			return nil, hint.Errorf("use a path or URL like file:///var/lib/walstream/archive", "archive %q is no URL: %v", location, err)
		case scheme == "s3":
			return nil, hint.Errorf("use a directory: --archive /var/lib/walstream/archive", "archive %s: this build stores in a directory only", location)
		case scheme != "file":
			return nil, hint.Errorf("use a path or URL like file:///var/lib/walstream/archive", "archive %s: unknown kind of location %q", location, scheme)
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
