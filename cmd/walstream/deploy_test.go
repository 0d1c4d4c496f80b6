package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The unit starts a command that exists, with flags that it has, and counts on
// the exit code of wrong settings.
func TestUnit(t *testing.T) {
	body, err := os.ReadFile(filepath.Join(repository, "deploy/walstream.service"))
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(body)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			settings[key] = value
		}
	}
	words := strings.Fields(settings["ExecStart"])
	if len(words) < 2 || filepath.Base(words[0]) != "walstream" {
		t.Fatalf("ExecStart=%s", settings["ExecStart"])
	}
	cmd, _, err := newTestApp().root.Find(words[1:])
	if err != nil || cmd.Name() != "receive" {
		t.Fatalf("ExecStart=%s: %v", settings["ExecStart"], err)
	}
	for _, word := range words[2:] {
		if !hasFlag(cmd, word) {
			t.Errorf("receive has no flag %s", word)
		}
	}
	for key, want := range map[string]string{"Type": "notify", "TimeoutStartSec": "infinity", "RestartPreventExitStatus": "2"} {
		if settings[key] != want {
			t.Errorf("%s=%s, want %s", key, settings[key], want)
		}
	}
}
