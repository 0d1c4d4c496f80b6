// Package config reads walstream's settings: flag over environment over file
// over default. Each value remembers where it came from. The package is
// strict: a key that it does not know is an error, with the place and the
// nearest name, because a setting that is silently ignored is found out in
// the night in which it was needed.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
)

// DefaultFile is read when no file is named, if it exists.
const DefaultFile = "/etc/walstream/walstream.yml"

// Config is every setting, with defaults filled in.
type Config struct {
	DBName           string          // libpq connection string or URL; empty: PG* environment
	Archive          string          // absolute path or URL
	S3               S3              // how an archive in S3 is reached
	SpoolDir         string          // absolute path
	SpoolMax         Size            // 0 is no limit
	Slot             string          // replication slot
	SlotMode         string          // hold or stream
	HoldMax          Size            // 0 is no limit
	ApplicationName  string          // empty: conninfo, PGAPPNAME, walstream
	Ack              string          // spool or archive
	AckWindow        int             // at least 1
	TailInterval     time.Duration   // 0 is off
	OnGap            string          // backup or stop
	HTTP             HTTP            // who is served by HTTP, and how
	CompressionLevel string          // fastest, default, better or best
	Recipients       []age.Recipient // for whom the archive is encrypted; none: it is not
	IdentityFile     string          // absolute path of the secret keys; empty: none
	RestoreRetry     time.Duration   // how long wal-get retries trouble
	RestorePrefetch  Size            // how much wal-get fetches ahead; 0 is off
}

// S3 is how an object store is reached.
type S3 struct {
	Endpoint            string // URL; empty: the AWS SDK's chain
	Region              string // empty: the AWS SDK's chain
	PathStyle           bool
	Checksum            string // auto or required
	StorageClass        string
	SSE                 string // AES256, aws:kms, aws:kms:dsse or empty
	KMSKey              string
	CAFile              string // absolute path
	UnsafeUnconditional bool
}

// HTTP is how receive and serve answer, and how wal-get --from asks. The paths
// are absolute, or empty.
type HTTP struct {
	Listen    string // host:port; empty: no HTTP server
	TokenFile string
	TLSCert   string
	TLSKey    string
	ClientCA  string
	CAFile    string
}

// Key is one setting. The table of keys is the only place that names
// settings: file, environment, flags, example and show follow it.
type Key struct {
	Path    string // as in the file, levels separated by dots
	Flag    string // empty when there is none
	Short   string // one-letter flag
	Command string // the only command with the flag; empty: all have it
	Default string
	Help    string // what it is, one line, for the flag and the example

	relative bool // a path that flag and environment may give relative
	secrets  bool // the value may hold a password
	list     bool // several values: a list in the file, with commas elsewhere
	set      func(c *Config, text string) error
}

// Env is the environment variable of the key.
func (k Key) Env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.Path, ".", "_"))
}

// CompressionLevels are the values of compression_level, in order of effort.
func CompressionLevels() []string { return []string{"fastest", "default", "better", "best"} }

// Keys lists all settings in the order of the example file.
func Keys() []Key { return append(sourceKeys(), courseKeys()...) }

// sourceKeys are from where WAL comes and where it is kept.
func sourceKeys() []Key {
	return []Key{
		{Path: "dbname", Flag: "dbname", Short: "d", secrets: true,
			Help: "how to reach the primary, and its standbys: libpq connection string or URL",
			set:  func(c *Config, s string) error { c.DBName = s; return nil }},
		{Path: "archive", Flag: "archive", relative: true, secrets: true,
			Help: "where the archive is: a directory, or s3://bucket/prefix",
			set:  func(c *Config, s string) error { return setLocation(&c.Archive, s) }},
		{Path: "s3.endpoint",
			Help: "URL of a store that is compatible with S3; empty: AWS_ENDPOINT_URL_S3 and the like, else AWS",
			set:  func(c *Config, s string) error { return setURL(&c.S3.Endpoint, s) }},
		{Path: "s3.region",
			Help: "region of the bucket; empty: AWS_REGION, the profile's, or us-east-1",
			set:  func(c *Config, s string) error { return setWord(&c.S3.Region, s) }},
		{Path: "s3.path_style", Default: "false",
			Help: "true: the bucket is named in the path of the URL, not in the host name",
			set:  func(c *Config, s string) error { return setBool(&c.S3.PathStyle, s) }},
		{Path: "s3.checksum", Default: "auto",
			Help: "auto: the store verifies a checksum of each object; required: only what every store knows, for older ones",
			set:  func(c *Config, s string) error { return setChoice(&c.S3.Checksum, s, []string{"auto", "required"}) }},
		{Path: "s3.storage_class",
			Help: "storage class of new objects, like STANDARD_IA; empty: the bucket's default",
			set:  func(c *Config, s string) error { return setStorageClass(&c.S3.StorageClass, s) }},
		{Path: "s3.sse",
			Help: "how the store encrypts new objects: AES256, aws:kms or aws:kms:dsse; empty: the bucket's default",
			set: func(c *Config, s string) error {
				return setChoice(&c.S3.SSE, s, []string{"AES256", "aws:kms", "aws:kms:dsse", ""})
			}},
		{Path: "s3.kms_key",
			Help: "ID or ARN of the key for s3.sse by KMS; empty: the account's default key",
			set:  func(c *Config, s string) error { return setWord(&c.S3.KMSKey, s) }},
		{Path: "s3.ca_file", relative: true,
			Help: "PEM file of the authority that signed the store's certificate; empty: the system's authorities",
			set:  func(c *Config, s string) error { return setOptionalPath(&c.S3.CAFile, s) }},
		{Path: "s3.unsafe_no_conditional_put", Default: "false",
			Help: "true: use a store that cannot refuse to overwrite; only for one single receiver",
			set:  func(c *Config, s string) error { return setBool(&c.S3.UnsafeUnconditional, s) }},
		{Path: "spool.dir", Flag: "spool", Default: "/var/lib/walstream/spool", relative: true,
			Help: "local directory in which WAL is durable until it is archived",
			set:  func(c *Config, s string) error { return setPath(&c.SpoolDir, s) }},
		{Path: "spool.max_size", Default: "16GiB",
			Help: "how much room the spool may take; when it is full, receiving waits for the archive; 0 is no limit",
			set:  func(c *Config, s string) error { return c.SpoolMax.Set(s) }},
		{Path: "slot", Flag: "slot", Default: "walstream",
			Help: "physical replication slot that keeps what is not archived",
			set:  func(c *Config, s string) error { return setSlot(&c.Slot, s) }},
		{Path: "slot_mode", Default: "hold",
			Help: "hold: the slot keeps what is not archived; stream: only what is not durable in the spool",
			set:  func(c *Config, s string) error { return setChoice(&c.SlotMode, s, []string{"hold", "stream"}) }},
		{Path: "hold_max", Default: "32GiB",
			Help: "most WAL that the slot keeps on the primary for the archive's sake; then it follows the spool; 0 is no limit",
			set:  func(c *Config, s string) error { return c.HoldMax.Set(s) }},
		{Path: "application_name",
			Help: "name for synchronous_standby_names; empty: that of the connection string, PGAPPNAME, or walstream",
			set:  func(c *Config, s string) error { return setName(&c.ApplicationName, s) }},
	}
}

// courseKeys are how that is done.
func courseKeys() []Key {
	return []Key{
		{Path: "ack", Default: "spool",
			Help: "what a commit waits for. spool: WAL is durable here; archive: in the archive",
			set:  func(c *Config, s string) error { return setChoice(&c.Ack, s, []string{"spool", "archive"}) }},
		{Path: "ack_window", Default: "4",
			Help: "with ack: archive, how many objects are on their way to the archive at the same time",
			set:  func(c *Config, s string) error { return setCount(&c.AckWindow, s) }},
		{Path: "tail_interval", Default: "1s",
			Help: "how often new WAL of unfinished segments is archived; 0: not before they are finished, or receive is stopped",
			set:  func(c *Config, s string) error { return setDuration(&c.TailInterval, s) }},
		{Path: "on_gap", Default: "backup",
			Help: "when the server has removed WAL that nobody has, backup: go on and take a base backup; stop: end",
			set:  func(c *Config, s string) error { return setChoice(&c.OnGap, s, []string{"backup", "stop"}) }},
		{Path: "http.listen", Default: "127.0.0.1:9788",
			Help: "address on which receive serves /metrics, /healthz and /readyz, and serve and receive WAL; off: none",
			set:  func(c *Config, s string) error { return setListen(&c.HTTP.Listen, s) }},
		{Path: "http.token_file", relative: true,
			Help: "file with a word that serve and receive ask for before they give WAL, and that wal-get --from gives",
			set:  func(c *Config, s string) error { return setOptionalPath(&c.HTTP.TokenFile, s) }},
		{Path: "http.tls_cert", relative: true,
			Help: "PEM file with the certificate of the HTTP server, or of wal-get --from as its client; empty: no TLS",
			set:  func(c *Config, s string) error { return setOptionalPath(&c.HTTP.TLSCert, s) }},
		{Path: "http.tls_key", relative: true,
			Help: "PEM file with the key of http.tls_cert",
			set:  func(c *Config, s string) error { return setOptionalPath(&c.HTTP.TLSKey, s) }},
		{Path: "http.client_ca", relative: true,
			Help: "PEM file of the authority whose certificates clients must have before they get WAL",
			set:  func(c *Config, s string) error { return setOptionalPath(&c.HTTP.ClientCA, s) }},
		{Path: "http.ca_file", relative: true,
			Help: "PEM file of the authority that signed the certificate of wal-get's --from; empty: the system's authorities",
			set:  func(c *Config, s string) error { return setOptionalPath(&c.HTTP.CAFile, s) }},
		{Path: "compression_level", Default: "fastest",
			Help: "zstd effort: " + strings.Join(CompressionLevels(), ", "),
			set:  func(c *Config, s string) error { return setChoice(&c.CompressionLevel, s, CompressionLevels()) }},
		{Path: "encryption.recipients", list: true,
			Help: "public keys, of age or SSH, for which an encrypted archive is written; empty: not encrypted",
			set:  func(c *Config, s string) error { return setRecipients(&c.Recipients, s) }},
		{Path: "encryption.identity_file", Flag: "identity", relative: true,
			Help: "file with the secret keys that read an encrypted archive; receive and backup need none",
			set:  func(c *Config, s string) error { return setOptionalPath(&c.IdentityFile, s) }},
		{Path: "restore_retry", Flag: "restore-retry", Command: "wal-get", Default: "15m",
			Help: "how long wal-get retries trouble before recovery stops",
			set:  func(c *Config, s string) error { return setDuration(&c.RestoreRetry, s) }},
		{Path: "restore_prefetch", Flag: "restore-prefetch", Command: "wal-get", Default: "256MiB",
			Help: "how much WAL wal-get fetches before PostgreSQL asks for it, into pg_wal/walstream.prefetch; 0: none",
			set:  func(c *Config, s string) error { return c.RestorePrefetch.Set(s) }},
	}
}

func setLocation(dst *string, s string) error {
	scheme, _, isURL := strings.Cut(s, "://")
	switch {
	case isURL && scheme != "file" && scheme != "s3":
		return fmt.Errorf("%q is neither a directory nor in S3: want an absolute path, or s3://bucket/prefix", Mask(s))
	case isURL || s == "":
		*dst = s
		return nil
	}
	return setPath(dst, s)
}

func setURL(dst *string, s string) error {
	if u, err := url.Parse(s); s != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil) {
		return fmt.Errorf("%q is no address: write it like https://s3.example.com", Mask(s))
	}
	*dst = s
	return nil
}

// setWord takes what goes into a header as it is.
func setWord(dst *string, s string) error {
	if strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("%q has a blank, or a character that is not ASCII", s)
	}
	*dst = s
	return nil
}

func setStorageClass(dst *string, s string) error {
	if s == "GLACIER" || s == "DEEP_ARCHIVE" {
		return fmt.Errorf("%s cannot be read at once, and a restore does not wait for hours: GLACIER_IR can", s)
	}
	return setWord(dst, s)
}

func setBool(dst *bool, s string) error {
	if s != "true" && s != "false" {
		return fmt.Errorf("%q is neither true nor false", s)
	}
	*dst = s == "true"
	return nil
}

func setOptionalPath(dst *string, s string) error {
	if s == "" {
		return nil
	}
	return setPath(dst, s)
}

func setPath(dst *string, s string) error {
	if !filepath.IsAbs(s) {
		return fmt.Errorf("%q is no absolute path", s)
	}
	*dst = filepath.Clean(s)
	return nil
}

// PostgreSQL's ReplicationSlotValidateName, and NAMEDATALEN.
var slotName = regexp.MustCompile(`^[a-z0-9_]+$`)

func setSlot(dst *string, s string) error {
	if !slotName.MatchString(s) || len(s) > 63 {
		return fmt.Errorf("%q is no slot name: 1 to 63 lower-case letters, digits and underscores", s)
	}
	*dst = s
	return nil
}

func setName(dst *string, s string) error {
	for _, c := range s {
		if c < ' ' || c > '~' {
			return fmt.Errorf("%q is no application_name: only printable ASCII", s)
		}
	}
	if len(s) > 63 {
		return fmt.Errorf("%q is longer than 63 bytes, PostgreSQL would cut it", s)
	}
	*dst = s
	return nil
}

// setListen takes "off" for the environment, where empty means not set.
func setListen(dst *string, s string) error {
	if s == "off" || s == "" {
		*dst = ""
		return nil
	}
	_, port, err := net.SplitHostPort(s)
	if _, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil {
		return fmt.Errorf("%q is no address: write it like 127.0.0.1:9788, or off", s)
	}
	*dst = s
	return nil
}

func setChoice(dst *string, s string, choices []string) error {
	if !slices.Contains(choices, s) {
		return fmt.Errorf("%q is none of %s", s, strings.TrimSuffix(strings.Join(choices, ", "), ", "))
	}
	*dst = s
	return nil
}

func setCount(dst *int, s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 64 {
		return fmt.Errorf("%q is no number from 1 to 64", s)
	}
	*dst = n
	return nil
}

func setDuration(dst *time.Duration, s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is no duration: write it like 90s, 15m or 2h30m", s)
	}
	if d < 0 {
		return errors.New("must not be negative")
	}
	*dst = d
	return nil
}
