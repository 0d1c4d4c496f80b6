package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
)

var defaults = Config{
	SpoolDir: "/var/lib/walstream/spool", Slot: "walstream", HTTP: HTTP{Listen: "127.0.0.1:9788"},
	SpoolMax: 16 << 30, SlotMode: "hold", HoldMax: 32 << 30, OnGap: "backup", CompressionLevel: "fastest", RestoreRetry: 15 * time.Minute, RestorePrefetch: 256 << 20, S3: S3{Checksum: "auto"},
	Ack: "spool", AckWindow: 4, TailInterval: time.Second,
}

func writeFile(t *testing.T, body string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "w.yml")
	if err := os.WriteFile(name, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func load(t *testing.T, src Sources) *Loaded {
	t.Helper()
	l, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *Loaded) value(key string) Value {
	for _, v := range l.Values {
		if v.Key == key {
			return v
		}
	}
	return Value{}
}

func TestDefaults(t *testing.T) {
	l := load(t, Sources{DefaultFile: filepath.Join(t.TempDir(), "absent.yml")})
	if diff := cmp.Diff(defaults, l.Config); diff != "" {
		t.Error(diff)
	}
	if l.File != "" {
		t.Errorf("file %q", l.File)
	}
	for _, v := range l.Values {
		if v.Origin != "default" {
			t.Errorf("%+v", v)
		}
	}
	if len(l.Values) != len(Keys()) {
		t.Errorf("%d values for %d keys", len(l.Values), len(Keys()))
	}
}

func TestExampleIsTheDefaults(t *testing.T) {
	l := load(t, Sources{File: writeFile(t, Example())})
	if diff := cmp.Diff(defaults, l.Config); diff != "" {
		t.Error(diff)
	}
	for _, v := range l.Values {
		if !strings.HasPrefix(v.Origin, l.File+":") {
			t.Errorf("the example leaves out %s: %+v", v.Key, v)
		}
	}
}

func TestPrecedence(t *testing.T) {
	file := writeFile(t, "slot: from_file\n")
	env := []string{"WALSTREAM_SLOT=from_env", "HOME=/root"}
	flags := map[string]string{"slot": "from_flag"}
	for _, tc := range []struct {
		name   string
		src    Sources
		value  string
		origin string
	}{
		{"default", Sources{}, "walstream", "default"},
		{"file", Sources{File: file}, "from_file", file + ":1"},
		{"default file", Sources{DefaultFile: file}, "from_file", file + ":1"},
		{"env", Sources{File: file, Environ: env}, "from_env", "environment WALSTREAM_SLOT"},
		{"flag", Sources{File: file, Environ: env, Flags: flags}, "from_flag", "flag --slot"},
		{"flag over file", Sources{File: file, Flags: flags}, "from_flag", "flag --slot"},
		{"empty env", Sources{File: file, Environ: []string{"WALSTREAM_SLOT="}}, "from_file", file + ":1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := load(t, tc.src)
			want := Value{Key: "slot", Value: tc.value, Origin: tc.origin}
			if got := l.FromFlag("slot"); got != strings.HasPrefix(tc.origin, "flag") {
				t.Errorf("FromFlag is %v", got)
			}
			if diff := cmp.Diff(want, l.value("slot")); diff != "" || l.Slot != tc.value {
				t.Errorf("%s, slot %q", diff, l.Slot)
			}
		})
	}
}

const testRecipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"

func TestRecipients(t *testing.T) {
	const ssh = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJKuMk8Fi5xC0bJHgRNl3WBWcAWLBbzEh8jjRNcXUvSK backup@db"
	for _, src := range []Sources{
		{File: writeFile(t, "encryption:\n  recipients:\n  - "+testRecipient+"\n  - "+ssh+"\n")},
		{File: writeFile(t, "encryption: { recipients: ["+testRecipient+", "+ssh+"] }\n")},
		{Environ: []string{"WALSTREAM_ENCRYPTION_RECIPIENTS=" + testRecipient + ", " + ssh}},
	} {
		r := load(t, src).Recipients
		if len(r) != 2 || fmt.Sprint(r[0]) != testRecipient {
			t.Errorf("recipients %v", r)
		}
	}
	if r := load(t, Sources{File: writeFile(t, "encryption: { recipients: [] }\n")}).Recipients; len(r) > 0 {
		t.Errorf("recipients %v", r)
	}
	for text, want := range map[string]string{
		"age1nonsense":         "no public key",
		"AGE-SECRET-KEY-1QQQQ": "there is a secret key",
		"ssh-ed25519 AAAA":     "malformed SSH recipient",
	} {
		_, err := Load(Sources{File: writeFile(t, "encryption: { recipients: ["+text+"] }\n")})
		if err == nil || !strings.Contains(err.Error(), ":1: encryption.recipients: ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET-KEY-1QQ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestEveryKeyFromFileAndEnvironment(t *testing.T) {
	texts := map[string]string{
		"dbname": "host=db1", "archive": "/a", "spool.dir": "/s", "slot": "s1",
		"spool.max_size": "20MiB", "slot_mode": "stream", "hold_max": "30MiB", "ack": "archive", "ack_window": "64", "tail_interval": "250ms", "on_gap": "stop", "application_name": "w1", "http.listen": ":80", "http.token_file": "/token", "http.tls_cert": "/cert", "http.tls_key": "/key", "http.client_ca": "/clients", "http.ca_file": "/ca", "compression_level": "best", "restore_retry": "90s", "restore_prefetch": "1GiB",
		"s3.endpoint": "https://s3.local:9000", "s3.region": "here", "s3.path_style": "true", "s3.checksum": "required", "s3.storage_class": "STANDARD_IA",
		"s3.sse": "aws:kms", "s3.kms_key": "arn:x", "s3.ca_file": "/ca.pem", "s3.unsafe_no_conditional_put": "true",
		"encryption.recipients": testRecipient, "encryption.identity_file": "/keys",
	}
	want := Config{DBName: "host=db1", Archive: "/a", SpoolDir: "/s", Slot: "s1", ApplicationName: "w1", HTTP: HTTP{":80", "/token", "/cert", "/key", "/clients", "/ca"}, Ack: "archive", AckWindow: 64, TailInterval: 250 * time.Millisecond, OnGap: "stop", SpoolMax: 20 << 20, SlotMode: "stream", HoldMax: 30 << 20,
		CompressionLevel: "best", RestoreRetry: 90 * time.Second, RestorePrefetch: 1 << 30, IdentityFile: "/keys",
		S3: S3{"https://s3.local:9000", "here", true, "required", "STANDARD_IA", "aws:kms", "arn:x", "/ca.pem", true}}
	if err := setRecipients(&want.Recipients, testRecipient); err != nil {
		t.Fatal(err)
	}
	sameKeys := cmp.Comparer(func(a, b age.Recipient) bool { return fmt.Sprint(a) == fmt.Sprint(b) })
	var file strings.Builder
	var env []string
	for _, k := range Keys() {
		if texts[k.Path] == "" {
			t.Fatalf("this test does not know %s", k.Path)
		}
		section, leaf, nested := strings.Cut(k.Path, ".")
		if nested && !strings.Contains(file.String(), section+":\n") {
			fmt.Fprintf(&file, "%s:\n", section)
		}
		if nested {
			fmt.Fprintf(&file, "  %s: %q\n", leaf, texts[k.Path])
		} else {
			fmt.Fprintf(&file, "%s: %s\n", k.Path, texts[k.Path])
		}
		env = append(env, k.Env()+"="+texts[k.Path])
	}
	if diff := cmp.Diff(want, load(t, Sources{File: writeFile(t, file.String())}).Config, sameKeys); diff != "" {
		t.Errorf("file: %s", diff)
	}
	if diff := cmp.Diff(want, load(t, Sources{Environ: env}).Config, sameKeys); diff != "" {
		t.Errorf("environment: %s", diff)
	}
}

func TestRelativePaths(t *testing.T) {
	l := load(t, Sources{Dir: "/home", Flags: map[string]string{"archive": "a/b", "encryption.identity_file": "key"}, Environ: []string{"WALSTREAM_SPOOL=../s"}})
	if l.Archive != "/home/a/b" || l.SpoolDir != "/s" || l.IdentityFile != "/home/key" {
		t.Errorf("archive %q, spool %q", l.Archive, l.SpoolDir)
	}
	l = load(t, Sources{Dir: "/home", Flags: map[string]string{"archive": "file:///a"}})
	if l.Archive != "file:///a" {
		t.Errorf("archive %q", l.Archive)
	}
}

func TestNoHTTP(t *testing.T) {
	for _, src := range []Sources{{File: writeFile(t, "http: {listen: ''}\n")}, {File: writeFile(t, "http: {listen: off}\n")}, {Environ: []string{"WALSTREAM_HTTP_LISTEN=off"}}} {
		if l := load(t, src); l.HTTP.Listen != "" {
			t.Errorf("%+v", l.Config)
		}
	}
}

func TestSpoolAlias(t *testing.T) {
	l := load(t, Sources{Environ: []string{"WALSTREAM_SPOOL=/a"}})
	if got := l.value("spool.dir"); got.Value != "/a" || got.Origin != "environment WALSTREAM_SPOOL" {
		t.Errorf("%+v", got)
	}
	if l := load(t, Sources{Environ: []string{"WALSTREAM_SPOOL=/a", "WALSTREAM_SPOOL_DIR=/a"}}); l.SpoolDir != "/a" {
		t.Errorf("%+v", l.Config)
	}
	if _, err := Load(Sources{Environ: []string{"WALSTREAM_SPOOL=/a", "WALSTREAM_SPOOL_DIR=/b"}}); err == nil {
		t.Error("two different spools are accepted")
	}
}

func TestProblems(t *testing.T) {
	for _, tc := range []struct {
		name, file string
		want       []string // FILE stands for the file's name
	}{
		{"unknown", "slto: x\n", []string{"FILE:1: unknown key slto, did you mean slot?"}},
		{"far off", "frobnicate: 1\n", []string{"FILE:1: unknown key frobnicate"}},
		{"later work", "notify: x\ndump: y\n", []string{"FILE:1: unknown key notify", "FILE:2: unknown key dump"}},
		{"tail", "ack: both\nack_window: 0\ntail_interval: 1\n", []string{`FILE:1: ack: "both" is none of spool, archive`, `FILE:2: ack_window: "0" is no number from 1 to 64`, `FILE:3: tail_interval: "1" is no duration: write it like 90s, 15m or 2h30m`}},
		{"nested unknown", "spool:\n  dri: /x\n", []string{"FILE:2: unknown key spool.dri, did you mean dir?"}},
		{"unknown section", "copy: { to: x }\n", []string{"FILE:1: unknown key copy"}},
		{"s3", "s3: { endpoint: s3.local, region: 'a b', path_style: yes, checksum: none, storage_class: GLACIER, sse: kms, ca_file: x.pem }\n", []string{
			`FILE:1: s3.endpoint: "s3.local" is no address: write it like https://s3.example.com`,
			`FILE:1: s3.region: "a b" has a blank, or a character that is not ASCII`,
			`FILE:1: s3.path_style: "yes" is neither true nor false`,
			`FILE:1: s3.checksum: "none" is none of auto, required`,
			`FILE:1: s3.storage_class: GLACIER cannot be read at once, and a restore does not wait for hours: GLACIER_IR can`,
			`FILE:1: s3.sse: "kms" is none of AES256, aws:kms, aws:kms:dsse`,
			`FILE:1: s3.ca_file: "x.pem" is no absolute path`,
		}},
		{"secret in the endpoint", "s3: { endpoint: 'https://k:s@s3.local' }\n", []string{"FILE:1: s3.endpoint: \"https://k:***@s3.local\" is no address: write it like https://s3.example.com"}},
		{"dotted", "spool.dir: /x\n", []string{"FILE:1: unknown key spool.dir, did you mean spool?"}},
		{"twice", "slot: a\nslot: b\n", []string{"FILE:2: slot is there twice, first in line 1"}},
		{"list", "slot: [a]\n", []string{"FILE:1: slot: want a single value"}},
		{"scalar section", "spool: /x\n", []string{"FILE:1: spool: want one of the keys dir, max_size, each with a value"}},
		{"no mapping", "- a\n", []string{"FILE:1: the file: want one of the keys dbname, archive, s3, spool, slot, slot_mode, hold_max, application_name, ack, ack_window, tail_interval, on_gap, http, compression_level, encryption, restore_retry, restore_prefetch, each with a value"}},
		{"two documents", "slot: a\n---\nslot: b\n", []string{"FILE: more than one YAML document"}},
		{"syntax", "slot: a\n  x: [\n", []string{"FILE:2: mapping values are not allowed in this context"}},
		{"values", "slot: Wal-Stream\nrestore_retry: 5\nspool: {dir: here}\ncompression_level: 9\n", []string{
			`FILE:3: spool.dir: "here" is no absolute path`,
			`FILE:1: slot: "Wal-Stream" is no slot name: 1 to 63 lower-case letters, digits and underscores`,
			`FILE:4: compression_level: "9" is none of fastest, default, better, best`,
			`FILE:2: restore_retry: "5" is no duration: write it like 90s, 15m or 2h30m`,
		}},
		{"store", "archive: ftp://k:s@b/p\n", []string{`FILE:1: archive: "ftp://k:***@b/p" is neither a directory nor in S3: want an absolute path, or s3://bucket/prefix`}},
		{"address", "http: {listen: 9788}\n", []string{`FILE:1: http.listen: "9788" is no address: write it like 127.0.0.1:9788, or off`}},
		{"port", "http: {listen: '[::1]:99999'}\n", []string{`FILE:1: http.listen: "[::1]:99999" is no address: write it like 127.0.0.1:9788, or off`}},
		{"line break", "archive: \"/a\\nb\"\nspool: {dir: \"/s\\r\"}\n", []string{
			`FILE:1: archive: "/a\nb" has a line break: no restore_command can hold that`,
			`FILE:2: spool.dir: "/s\r" has a line break: no restore_command can hold that`,
		}},
		{"name", "application_name: näh\nrestore_retry: -1s\n", []string{
			`FILE:1: application_name: "näh" is no application_name: only printable ASCII`,
			"FILE:2: restore_retry: must not be negative",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := writeFile(t, tc.file)
			_, err := Load(Sources{File: name})
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want a *config.Error", err)
			}
			for i := range tc.want {
				tc.want[i] = strings.ReplaceAll(tc.want[i], "FILE", name)
			}
			if diff := cmp.Diff(tc.want, e.Problems); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNullsAndAnchors(t *testing.T) {
	for _, body := range []string{"", "# nothing\n", "slot:\nspool:\n", "~\n"} {
		if diff := cmp.Diff(defaults, load(t, Sources{File: writeFile(t, body)}).Config); diff != "" {
			t.Errorf("%q: %s", body, diff)
		}
	}
	l := load(t, Sources{File: writeFile(t, "slot: &n abc\napplication_name: *n\n")})
	if l.ApplicationName != "abc" {
		t.Errorf("anchor: %+v", l.Config)
	}
}

func TestUnreadableFile(t *testing.T) {
	if _, err := Load(Sources{File: filepath.Join(t.TempDir(), "absent.yml")}); err == nil {
		t.Error("a named file may be absent")
	}
	if _, err := Load(Sources{DefaultFile: t.TempDir()}); err == nil {
		t.Error("a default file that cannot be read counts as absent")
	}
}

func TestWarnings(t *testing.T) {
	l := load(t, Sources{
		Environ: []string{"WALSTREAM_SLTO=x", "WALSTREAM_SLOT=y", "OTHER=z"},
		Flags:   map[string]string{"dbname": "host=a password=geheim"},
	})
	want := []string{
		"environment variable WALSTREAM_SLTO is unknown, did you mean WALSTREAM_SLOT?",
		"the password in --dbname is visible to every user of this machine: put it into ~/.pgpass",
	}
	if diff := cmp.Diff(want, l.Warnings); diff != "" {
		t.Error(diff)
	}
	if got := l.value("dbname").Value; got != "host=a password=***" {
		t.Errorf("shown: %s", got)
	}
	if l.DBName != "host=a password=geheim" {
		t.Errorf("used: %s", l.DBName)
	}
}

func TestSlotNames(t *testing.T) {
	var slot string
	for _, name := range []string{"", "Walstream", "a-b", "a b", `a"; DROP`, strings.Repeat("x", 64)} {
		if err := setSlot(&slot, name); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
	for _, name := range []string{"walstream", "1", "physical", strings.Repeat("x", 63)} {
		if err := setSlot(&slot, name); err != nil || slot != name {
			t.Errorf("%q: %v", slot, err)
		}
	}
}
