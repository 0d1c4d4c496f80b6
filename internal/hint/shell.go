package hint

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Quote makes s one word of a POSIX shell.
func Quote(s string) string {
	special := func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("%+,-./:=@_", c))
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Access tells how the user of this process gets at a directory that it was
// denied: who it belongs to, or the command that makes it.
func Access(dir string) string {
	me := User()
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Sprintf("sudo install -d -o %s -m 750 %s", me, Quote(dir))
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		owner := userName(int(st.Uid))
		return fmt.Sprintf("run walstream as %s, to whom %s belongs, or: sudo chown %s %s", owner, dir, me, Quote(dir))
	}
	return fmt.Sprintf("sudo chown -R %[1]s %[2]s && chmod -R u+rwX %[2]s", me, Quote(dir))
}

// Mount is the command that shows the file system on which dir lies, or would
// lie: findmnt knows nothing of what is not there.
func Mount(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return "findmnt -T " + Quote(dir)
		}
		dir = filepath.Dir(dir)
	}
}

// User is the name of the user of this process.
func User() string { return userName(os.Geteuid()) }

// userName is the number itself for a user without a name.
func userName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}
