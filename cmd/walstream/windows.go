package main

import (
	"fmt"
	"strings"

	"github.com/walstream/walstream/archive"
	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/fsx"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
)

// sourceToLookAt is the archive, and the spool where there is one that belongs
// to it.
func sourceToLookAt(c *config.Loaded, arch *archive.Archive) recovery.Source {
	source := recovery.Source{Archive: arch}
	if view, err := segment.ReadSpool(fsx.OS{}, c.SpoolDir); err == nil && view.Identity == arch.Identity().Identity {
		source.Spool = c.SpoolDir
	}
	return source
}

// windowsText says what can be restored.
func windowsText(windows []recovery.Window) string {
	var spans []string
	gaps := 0
	for i, w := range windows {
		span := term.Span(w.From, w.To)
		if !w.To.After(w.From) {
			span = term.Time(w.From) + ", no commit since"
		}
		spans = append(spans, span)
		if !w.Open || i < len(windows)-1 {
			gaps++
		}
	}
	if len(spans) == 0 {
		return "nothing yet, no backup has all the WAL that it needs"
	}
	text := strings.Join(spans, ", and ")
	if gaps > 0 {
		text += fmt.Sprintf(" (%s, see: walstream list wal)", term.Count(gaps, "gap"))
	}
	return text
}
