package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The units start commands that exist, with flags that they have, and count on
// the exit code of wrong settings.
func TestUnits(t *testing.T) {
	for file, want := range map[string]map[string]string{
		"walstream.service":       {"command": "receive", "Type": "notify", "TimeoutStartSec": "infinity", "RestartPreventExitStatus": "2"},
		"walstream-serve.service": {"command": "serve", "Type": "exec", "PrivateTmp": "true", "RestartPreventExitStatus": "2"},
	} {
		body, err := os.ReadFile(filepath.Join(repository, "deploy", file))
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
			t.Fatalf("%s: ExecStart=%s", file, settings["ExecStart"])
		}
		cmd, _, err := newTestApp().root.Find(words[1:])
		if err != nil {
			t.Fatalf("%s: ExecStart=%s: %v", file, settings["ExecStart"], err)
		}
		settings["command"] = cmd.Name()
		for _, word := range words[2:] {
			if !hasFlag(cmd, word) {
				t.Errorf("%s: %s has no flag %s", file, cmd.Name(), word)
			}
		}
		for key, value := range want {
			if settings[key] != value {
				t.Errorf("%s: %s=%s, want %s", file, key, settings[key], value)
			}
		}
	}
}
