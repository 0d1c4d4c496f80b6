package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/walstream/walstream/recovery"
	"github.com/walstream/walstream/segment"
	"github.com/walstream/walstream/wal"
)

// past is what a test knows of a cluster without walstream: every WAL record as
// pg_waldump shows the servers' own files, and what each transaction changed.
// From that it tells what PostgreSQL can recover to, and with which rows.
type past struct {
	paths   map[wal.Timeline][]logged // of each timeline, those of its ancestors before them
	eras    []era                     // timeline 1 first
	work    map[transaction]*effects
	backups []based // the newest first, later timelines before earlier ones
	lost    map[segment.ID]bool
}

// era is a timeline, which has one server.
type era struct {
	parent wal.Timeline
	fork   wal.LSN
	end    wal.LSN   // what walstream has of it; all of it if not known before
	until  time.Time // by its server's clock, no WAL came later
}

// logged is a WAL record.
type logged struct {
	tli        wal.Timeline
	lsn, end   wal.LSN
	finish     bool // a commit or an abort
	commit     bool
	prepare    bool // a transaction is prepared
	prepared   bool // it was prepared before
	xid        uint32
	time       time.Time
	point      string  // name of a restore point
	backupFrom wal.LSN // redo of the backup that the record ends
}

// transaction is known by the timeline on which it changed something: after a
// recovery to an earlier moment, its number is given out again.
type transaction struct {
	tli wal.Timeline
	xid uint32
}

// effects is what a transaction wrote: rows by number, empty ones are deleted.
type effects struct {
	begun wal.LSN
	rows  map[int]string
}

// based is a base backup. It is consistent behind the record that ends it.
type based struct {
	id         string
	tli        wal.Timeline
	redo, stop wal.LSN
}

// megabyte is the size of a segment.
const megabyte = wal.LSN(mib)

// segmentOf is where the segment of an LSN begins.
func segmentOf(lsn wal.LSN) wal.LSN { return lsn - lsn%megabyte }

// owner is the timeline on which an LSN lies on the way to tli.
func (p *past) owner(tli wal.Timeline, lsn wal.LSN) wal.Timeline {
	for p.eras[tli-1].fork > lsn {
		tli = p.eras[tli-1].parent
	}
	return tli
}

// reach is how far WAL can be read on the way from a backup to tli, and
// whether there is more behind that.
func (p *past) reach(b based, tli wal.Timeline) (end wal.LSN, hole bool) {
	end = p.eras[tli-1].end
	for at := segmentOf(b.redo); at < end; at += megabyte {
		id := segment.ID{Timeline: p.owner(tli, at+megabyte-1), No: uint64(at / megabyte)}
		if p.lost[id] {
			return at, true
		}
	}
	return end, false
}

// timeline is the one to which a target leads from a backup; 0 is none.
func (p *past) timeline(b based, choice recovery.TargetTimeline) wal.Timeline {
	tli := wal.Timeline(len(p.eras))
	switch {
	case choice.Current:
		tli = b.tli
	case choice.Number != 0:
		tli = choice.Number
	}
	if int(tli) > len(p.eras) || p.owner(tli, b.redo) != b.tli || p.owner(tli, b.stop-1) != b.tli {
		return 0
	}
	return tli
}

// outcome is what PostgreSQL does with a backup and a target.
type outcome int

const (
	never   outcome = iota // WAL ends first
	early                  // it stops before the cluster is consistent
	reached                // it stops
)

func pastTime(target recovery.Target, at time.Time) bool {
	return at.After(target.Time) || target.Exclusive && at.Equal(target.Time)
}

// recover follows xlogrecovery.c: recoveryStopsBefore, recoveryStopsAfter and
// PerformWalRecovery. It returns how many records of the path are replayed.
func (p *past) recover(b based, tli wal.Timeline, target recovery.Target) (outcome, int) {
	end, _ := p.reach(b, tli)
	path := p.paths[tli]
	i, _ := slices.BinarySearchFunc(path, b.redo, func(r logged, lsn wal.LSN) int { return cmp.Compare(r.lsn, lsn) })
	consistent := false
	for ; i < len(path) && path[i].end <= end; i++ {
		r := path[i]
		hit := false
		switch target.Kind {
		case recovery.KindTime:
			hit = r.finish && pastTime(target, r.time)
		case recovery.KindLSN:
			hit = r.lsn >= target.LSN
		case recovery.KindXID:
			hit = r.finish && r.xid == target.XID
		case recovery.KindName:
			hit = r.point == target.Name
		}
		before := target.Exclusive || target.Kind == recovery.KindTime
		stopped := hit && before
		if !stopped {
			consistent = consistent || r.backupFrom == b.redo
		}
		if hit && !before || target.Kind == recovery.KindImmediate && consistent {
			stopped = true
			i++
		}
		switch {
		case stopped && !consistent:
			return early, i
		case stopped:
			return reached, i
		}
	}
	if target.Kind == recovery.KindEnd && consistent {
		return reached, i
	}
	return never, i
}

// answer is what is right for a target: the moments that are what it means, and
// whether a refusal would be wrong.
type answer struct {
	moments map[moment]bool
	must    bool
}

// moment is a state of the cluster: so many records of a timeline's path.
type moment struct {
	tli     wal.Timeline
	records int
}

func (a answer) String() string {
	var s []string
	for m := range a.moments {
		s = append(s, fmt.Sprintf("%d records of timeline %s", m.records, m.tli))
	}
	slices.Sort(s)
	return fmt.Sprintf("must be reached: %v, right: %s", a.must, strings.Join(s, " or "))
}

// answer judges a target. Where two backups lead to different places, which
// takes a clock that went back, or timelines that each backup chooses for
// itself, either is right.
func (p *past) answer(target recovery.Target) answer {
	a := answer{moments: map[moment]bool{}}
	first := true // no newer backup could have decided
	over := false // a newer one finds nothing past the time, as the clock went back before it: a refusal is right too
	for _, b := range p.backups {
		tli := p.timeline(b, target.Timeline)
		if tli == 0 || target.Backup != "" && target.Backup != b.id {
			continue
		}
		how, n := p.recover(b, tli, target)
		_, hole := p.reach(b, tli)
		m := moment{tli, n}
		sure, decides := true, first
		switch target.Kind {
		case recovery.KindTime:
			wrong, doubtful := p.holds(b, m, target)
			switch {
			case wrong:
				how = early
			case how == never && !hole && !target.Time.After(p.eras[tli-1].until):
				how, sure = reached, false // only a heartbeat can tell
			}
			sure = sure && !doubtful && !over
		case recovery.KindLSN:
			sure = target.LSN >= b.stop // the backup's last record counts as before it
		case recovery.KindName:
			if n := p.count(b, tli, target.Name); n > 1 {
				return a // refused: which one is meant?
			}
		case recovery.KindEnd:
			if hole {
				how = never
			}
		}
		first = first && how == early
		over = over || target.Kind == recovery.KindTime && how == never
		if how != reached {
			continue
		}
		a.moments[m] = true
		a.must = a.must || sure && (decides || target.Kind == recovery.KindXID || !target.Timeline.Current)
		if target.Kind == recovery.KindImmediate || target.Kind == recovery.KindEnd || target.Kind == recovery.KindName {
			return a // the newest backup is taken
		}
	}
	return a
}

// holds says whether a backup's WAL before a stop at a time ends past that
// time, which makes the stop a wrong one; or whether anything before the
// backup is past it, so that a refusal is right too.
func (p *past) holds(b based, m moment, target recovery.Target) (wrong, doubtful bool) {
	for _, r := range p.paths[m.tli][:m.records] {
		if r.finish {
			wrong = pastTime(target, r.time)
			doubtful = doubtful || r.lsn < b.redo && wrong
		}
	}
	return wrong, doubtful
}

// count is how often a restore point can be met behind a backup.
func (p *past) count(b based, tli wal.Timeline, name string) (n int) {
	end, _ := p.reach(b, tli)
	for _, r := range p.paths[tli] {
		if r.point == name && r.lsn >= b.redo && r.end <= end {
			n++
		}
	}
	return n
}

// at is the moment of a recovery that ended at an LSN of a path.
func (p *past) at(tli wal.Timeline, end wal.LSN) moment {
	n, _ := slices.BinarySearchFunc(p.paths[tli], end, func(r logged, lsn wal.LSN) int { return cmp.Compare(r.lsn, lsn) })
	return moment{tli, n}
}

// rows is the table at a moment, as [tableRows] has it.
func (p *past) rows(m moment) string {
	rows := map[int]string{}
	for _, r := range p.paths[m.tli][:m.records] {
		if !r.commit {
			continue
		}
		for n, v := range p.changed(m.tli, r) {
			if rows[n] = v; v == "" {
				delete(rows, n)
			}
		}
	}
	var b strings.Builder
	for _, n := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(&b, "%d %s\n", n, rows[n])
	}
	return strings.TrimSpace(b.String())
}

// open lists the transactions that are prepared at a moment, by GID.
func (p *past) open(m moment) string {
	var gids []string
	for _, r := range p.paths[m.tli][:m.records] {
		suffix := fmt.Sprint("-", r.xid)
		if r.prepare {
			gids = append(gids, r.tli.String()+suffix)
		} else if r.finish && r.prepared {
			gids = slices.DeleteFunc(gids, func(gid string) bool { return strings.HasSuffix(gid, suffix) })
		}
	}
	slices.Sort(gids)
	return strings.Join(gids, "\n")
}

// changed is what the transaction wrote that a record on the way to tli commits.
// One that was prepared may have done so on an older timeline.
func (p *past) changed(tli wal.Timeline, r logged) map[int]string {
	for at := r.tli; ; at = p.eras[at-1].parent {
		c := p.work[transaction{at, r.xid}]
		if c != nil && p.owner(tli, c.begun) == at {
			return c.rows
		}
		if !r.prepared || p.eras[at-1].parent == 0 {
			return nil
		}
	}
}

// tableRows is the SQL for all rows that the transactions left.
const tableRows = "SELECT n || ' ' || v FROM worked ORDER BY n"
