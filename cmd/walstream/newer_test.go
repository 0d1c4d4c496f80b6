package main

import (
	"errors"
	"testing"

	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

func TestNewestDescendant(t *testing.T) {
	from := func(tli wal.Timeline) []segment.Switch { return []segment.Switch{{Timeline: tli, End: 1 << 20}} }
	known := map[wal.Timeline]segment.History{
		1: {Timeline: 1}, 2: {Timeline: 2, Ancestors: from(1)}, 3: {Timeline: 3, Ancestors: from(2)}, // a branch of 2 alone
		4: {Timeline: 4, Ancestors: from(1)}, 5: {}, // only WAL was imported
	}
	for server, want := range map[wal.Timeline]wal.Timeline{1: 4, 2: 3, 3: 0, 4: 0, 6: 0} {
		got, err := newest(segment.History{Timeline: server}, []wal.Timeline{1, 2, 3, 4, 5}, func(tli wal.Timeline) (segment.History, error) {
			return known[tli], nil
		})
		if got != want || err != nil {
			t.Errorf("timeline %s: %s %v, want %s", server, got, err, want)
		}
	}
	broken := errors.New("away")
	_, err := newest(segment.History{Timeline: 1}, []wal.Timeline{2}, func(wal.Timeline) (segment.History, error) {
		return segment.History{}, broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("unknown became absent: %v", err)
	}
}
