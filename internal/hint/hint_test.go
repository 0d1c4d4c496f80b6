package hint_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/walstream/walstream/internal/hint"
)

func TestHints(t *testing.T) {
	cause := errors.New("cause")
	err := hint.With(hint.With(hint.With(cause, "inner"), "outer %d", 1), "inner")
	if diff := cmp.Diff([]string{"inner", "outer 1"}, hint.Of(err)); diff != "" {
		t.Error(diff)
	}
	if err.Error() != "cause" || !errors.Is(err, cause) {
		t.Errorf("the error changed: %v", err)
	}
	if hint.With(nil, "hint") != nil || len(hint.Of(cause)) != 0 || len(hint.Of(nil)) != 0 {
		t.Error("a hint without an error")
	}
	if err := hint.Errorf("100% pasted", "%s: %w", "object", cause); err.Error() != "object: cause" || hint.Of(err)[0] != "100% pasted" {
		t.Errorf("%v, hints %q", err, hint.Of(err))
	}
}

func TestLog(t *testing.T) {
	var b strings.Builder
	log := zerolog.New(&b)
	cause := errors.New("cause")
	log.Info().Func(hint.Log(cause)).Send()
	log.Info().Func(hint.Log(hint.With(cause, "do this"))).Send()
	if want := `{"level":"info"}` + "\n" + `{"level":"info","hint":["do this"]}` + "\n"; b.String() != want {
		t.Errorf("got %s", b.String())
	}
}

// The shell itself reads what was quoted.
func TestQuote(t *testing.T) {
	for _, s := range []string{"plain/Path-1.0", "", "a b", "it's", `back\slash`, "$HOME `id` \"x\"", "new\nline", "*", "~", "#", "ü", "a;b"} {
		out, err := exec.Command("sh", "-c", "printf %s "+hint.Quote(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("%q became %s, which is %q (%v)", s, hint.Quote(s), out, err)
		}
	}
	if got := hint.Quote("/srv/archive"); got != "/srv/archive" {
		t.Errorf("quoted needlessly: %s", got)
	}
}

func TestAccess(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "no such")
	if got := hint.Access(absent); !strings.HasPrefix(got, "sudo install -d -o ") || !strings.HasSuffix(got, "'"+absent+"'") {
		t.Errorf("absent: %s", got)
	}
	if got := hint.Access(dir); !strings.HasPrefix(got, "sudo chown -R ") || !strings.HasSuffix(got, " && chmod -R u+rwX "+dir) {
		t.Errorf("own: %s", got)
	}
	foreign := "/etc"
	if os.Geteuid() == 0 {
		foreign = dir
		if err := os.Chown(dir, 12345, -1); err != nil {
			t.Fatal(err)
		}
	}
	if got := hint.Access(foreign); !strings.Contains(got, "to whom "+foreign+" belongs") {
		t.Errorf("of another user: %s", got)
	}
}
