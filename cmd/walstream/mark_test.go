package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/hint"
)

func TestPointObject(t *testing.T) {
	for name, want := range map[string]string{
		"v1.2":       "points/0000000100000002-v1.2.json",
		"a b/../ü'%": "points/0000000100000002-a_b_..____.json",
	} {
		p := point{Name: name, LSN: 1<<32 | 2}
		if got := p.object(); got != want || archive.CheckName(got) != nil {
			t.Errorf("%q: %s, %v; want %s", name, got, archive.CheckName(got), want)
		}
	}
}

func TestParsePoint(t *testing.T) {
	p, err := parsePoint([][]string{{"16/B374D848", "1795340460123456"}}, point{Name: "n", Timeline: 3})
	if err != nil || p.LSN.String() != "16/B374D848" || !p.Time.Equal(time.UnixMicro(1795340460123456)) || p.Timeline != 3 {
		t.Errorf("%+v %v", p, err)
	}
	for _, rows := range [][][]string{nil, {{"16/B374D848"}}, {{"x", "1"}}, {{"1/2", "x"}}} {
		if p, err := parsePoint(rows, point{}); err == nil {
			t.Errorf("%q gives %+v", rows, p)
		}
	}
}

// Names that become the same object name are still told apart.
func TestRefuseTwice(t *testing.T) {
	store := archive.NewMem()
	p := point{Name: "a b", LSN: 7}
	body, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), p.object(), strings.NewReader(string(body))); err != nil {
		t.Fatal(err)
	}
	for name, twice := range map[string]bool{"a b": true, "a_b": false, "b": false, "x-a b": false} {
		err := refuseTwice(t.Context(), store, name)
		if (err != nil) != twice {
			t.Errorf("%q: %v", name, err)
		}
		if twice && len(hint.Of(err)) == 0 {
			t.Errorf("%q: no hint", name)
		}
	}
	if err := store.Put(t.Context(), (point{Name: "broken", LSN: 8}).object(), strings.NewReader("{")); err != nil {
		t.Fatal(err)
	}
	if err := refuseTwice(t.Context(), store, "broken"); err == nil {
		t.Error("a damaged note counts as none")
	}
}
