package config

import (
	"regexp"
	"strings"
)

const masked = "***"

var (
	// A libpq keyword with its value: quoted with backslash escapes, where
	// the closing quote may be missing or not be the end, or up to the next
	// space.
	conninfoSecret = regexp.MustCompile(`(?is)\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*(?:'\S*|\\?$)|(?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*\\?)`)
	urlUserinfo    = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*://[^/?#@:]*:)(.*)$`)
	urlSecret      = regexp.MustCompile(`(?i)([?&](?:ssl)?password=)[^&#]*`)
)

// Mask replaces the passwords inside a connection string or URL by ***.
func Mask(s string) string {
	if !strings.Contains(s, "://") {
		return conninfoSecret.ReplaceAllString(s, "${1}"+masked)
	}
	return maskUserinfo(urlSecret.ReplaceAllString(s, "${1}"+masked))
}

// maskUserinfo hides what stands between the first colon and the last @ of
// the authority: a password may itself hold an unescaped @ or slash.
func maskUserinfo(s string) string {
	m := urlUserinfo.FindStringSubmatch(s)
	if m == nil {
		return s
	}
	rest, query, hasQuery := strings.Cut(m[2], "?")
	i := strings.LastIndex(rest, "@")
	if i < 0 {
		return s // host:port
	}
	if hasQuery {
		query = "?" + query
	}
	return m[1] + masked + rest[i:] + query
}
