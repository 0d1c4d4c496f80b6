package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/walstream/walstream/wal"
)

// do runs SQL in a session and returns the fields of all rows.
func (s *session) do(t *testing.T, sql string) (fields []string) {
	t.Helper()
	results, err := s.conn.Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	for _, r := range results {
		for _, row := range r.Rows {
			for _, f := range row {
				fields = append(fields, string(f))
			}
		}
	}
	return fields
}

// busyFor lets n transactions end, and others begin.
func (b *busy) busyFor(n int) {
	b.t.Helper()
	for n > 0 {
		s := b.sessions[b.rng.IntN(len(b.sessions))]
		switch what := b.rng.IntN(10); {
		case s.open == nil:
			b.open(s)
		case what < 4:
			b.change(s)
		case what == 4:
			b.attempt(s)
		default:
			b.end(s)
			n--
		}
	}
}

const known = "SELECT pg_current_xact_id()::text::bigint % 4294967296, pg_current_wal_insert_lsn()"

func (b *busy) open(s *session) {
	got := s.do(b.t, "BEGIN; "+known)
	lsn, err := wal.ParseLSN(got[1])
	if err != nil {
		b.t.Fatal(err)
	}
	var xid uint32
	fmt.Sscan(got[0], &xid)
	s.open = &piece{transaction: transaction{b.tli, xid}, effects: effects{begun: lsn, rows: map[int]string{}}}
	b.change(s)
}

// change writes a new row, or changes or deletes one that no other transaction
// works on.
func (b *busy) change(s *session) {
	for n, v := range b.write(s) {
		s.open.rows[n] = v
	}
}

func (b *busy) write(s *session) map[int]string {
	what := b.rng.IntN(4)
	if what < 2 || len(b.rows) == 0 {
		b.last++
		v := strings.Repeat("x", b.rng.IntN(40)) + fmt.Sprint(s.open.xid)
		s.do(b.t, fmt.Sprintf("INSERT INTO worked VALUES (%d, '%s')", b.last, v))
		return map[int]string{b.last: v}
	}
	i := b.rng.IntN(len(b.rows))
	n := b.rows[i]
	b.rows = slices.Delete(b.rows, i, i+1)
	s.open.took = append(s.open.took, n)
	if what == 2 {
		s.do(b.t, fmt.Sprintf("DELETE FROM worked WHERE n = %d", n))
		return map[int]string{n: ""}
	}
	v := "changed by " + fmt.Sprint(s.open.xid)
	s.do(b.t, fmt.Sprintf("UPDATE worked SET v = '%s' WHERE n = %d", v, n))
	return map[int]string{n: v}
}

// attempt makes a subtransaction, and keeps what it did or not.
func (b *busy) attempt(s *session) {
	s.do(b.t, "SAVEPOINT s")
	wrote := b.write(s)
	if b.rng.IntN(2) == 0 {
		s.do(b.t, "ROLLBACK TO s; RELEASE s") // what it took stays taken
		return
	}
	for n, v := range wrote {
		s.open.rows[n] = v
	}
	s.do(b.t, "RELEASE s")
}

// end ends a session's transaction, or one that was prepared.
func (b *busy) end(s *session) {
	p := s.open
	switch what := b.rng.IntN(10); {
	case what < 6:
		b.committed(p)
		s.do(b.t, "COMMIT")
	case what == 6:
		b.rows = append(b.rows, p.took...)
		s.do(b.t, "ROLLBACK")
	default:
		b.prepare(s)
	}
	s.open = nil
	if len(b.prepared) < 4 {
		return
	}
	i := b.rng.IntN(len(b.prepared))
	p = b.prepared[i]
	b.prepared = slices.Delete(b.prepared, i, i+1)
	if b.rng.IntN(3) == 0 {
		b.rows = append(b.rows, p.took...)
		s.do(b.t, "ROLLBACK PREPARED '"+p.gid()+"'")
		return
	}
	b.committed(p)
	s.do(b.t, "COMMIT PREPARED '"+p.gid()+"'")
}

func (p *piece) gid() string { return fmt.Sprintf("%s-%d", p.tli, p.xid) }

func (b *busy) prepare(s *session) {
	p := s.open
	s.do(b.t, "PREPARE TRANSACTION '"+p.gid()+"'")
	b.pieces[p.gid()] = p
	b.prepared = append(b.prepared, p)
	s.open = nil
}

func (b *busy) committed(p *piece) {
	b.work[p.transaction] = &p.effects
	for n, v := range p.rows {
		if v != "" {
			b.rows = append(b.rows, n)
		}
	}
	slices.Sort(b.rows)
	b.rows = slices.Compact(b.rows)
}
