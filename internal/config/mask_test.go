package config

import (
	"math"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestMask(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "",
		"host=db1 user=walstream":           "host=db1 user=walstream",
		"host=a password=x user=b":          "host=a password=*** user=b",
		`password = 'a b\'c' host=h`:        "password = *** host=h",
		`host=h password='never ended`:      "host=h password=***",
		`host=h password=a\ b user=u`:       "host=h password=*** user=u",
		"host=h PASSWORD=x sslpassword=y":   "host=h PASSWORD=*** sslpassword=***",
		"passfile=/x host=password":         "passfile=/x host=password",
		"password='' host=h":                "password=*** host=h",
		"password='a'secret host=h":         "password=*** host=h",
		"postgres://u:p@h:5432/db":          "postgres://u:***@h:5432/db",
		"postgres://u:p@x/y@h/db?sslmode=a": "postgres://u:***@h/db?sslmode=a",
		"postgres://u@h:5432/db":            "postgres://u@h:5432/db",
		"postgres://h:5432/db":              "postgres://h:5432/db",
		"postgresql://h/db?password=p&a=b":  "postgresql://h/db?password=***&a=b",
		"postgresql://u:p@h?sslpassword=p":  "postgresql://u:***@h?sslpassword=***",
		"/var/lib/archive":                  "/var/lib/archive",
		"password=a\\\nb host=h":            "password=*** host=h",
	} {
		if got := Mask(in); got != want {
			t.Errorf("Mask(%q) = %q, want %q", in, got, want)
		}
	}
}

// Whatever the driver takes for the password must not be shown.
func FuzzMask(f *testing.F) {
	for _, s := range []string{"password=verysecret", `user=a  password = 'very\'secret' host=b`, "postgres://u:verysecret@h/d", "postgres://h/d?password=verysecret"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		shown := Mask(s)
		if Mask(shown) != shown {
			t.Errorf("Mask(%q) = %q, and again %q", s, shown, Mask(shown))
		}
		const marker = "verysecret"
		cfg, err := pgconn.ParseConfig(s)
		if err != nil || strings.Count(s, marker) != 1 || !strings.Contains(cfg.Password, marker) {
			return
		}
		if strings.Contains(shown, marker) {
			t.Errorf("Mask(%q) = %q shows the password %q", s, shown, cfg.Password)
		}
	})
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "16GiB": 16 << 30, "50 MiB": 50 << 20, "1.5GiB": 3 << 29, "50MB": 50e6, "4096": 4096} {
		var s Size
		if err := s.Set(text); err != nil || s != want {
			t.Errorf("%q: %d, %v", text, s, err)
		}
		var again Size
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%q: %s reads back as %d, %v", text, s, again, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "1 apple", "99999999999999999999GiB", "8EiB"} {
		var s Size
		if err := s.Set(text); err == nil {
			t.Errorf("%q is accepted as %d", text, s)
		}
	}
	if s := Size(math.MaxInt64).String(); s != "9223372036854775807" {
		t.Error(s)
	}
}
