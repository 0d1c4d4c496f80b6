package backup

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
)

// script is what a server sends after BASE_BACKUP.
type script []pgproto3.BackendMessage

// scripted connects to a server that sends the script and hangs up.
func scripted(t *testing.T, messages script) *pg.Conn {
	t.Helper()
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		b := pgproto3.NewBackend(server, server)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return
		}
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if b.Flush() != nil {
			return
		}
		if _, err := b.Receive(); err != nil {
			return
		}
		for _, m := range messages {
			b.Send(m)
		}
		_ = b.Flush() // the client may have hung up at the first wrong message
	}()
	cfg, err := pgconn.ParseConfig("host=127.0.0.1 user=test sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	cfg.DialFunc = func(context.Context, string, string) (net.Conn, error) { return client, nil }
	c, err := pgconn.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return &pg.Conn{PgConn: c}
}

func row(values ...string) *pgproto3.DataRow {
	r := &pgproto3.DataRow{}
	for _, v := range values {
		var b []byte // NULL
		if v != "NULL" {
			b = []byte(v)
		}
		r.Values = append(r.Values, b)
	}
	return r
}

func data(s string) *pgproto3.CopyData { return &pgproto3.CopyData{Data: []byte(s)} }

// answer is a whole, good answer of a server with one tablespace, without
// contents.
func answer() script {
	done := &pgproto3.CommandComplete{CommandTag: []byte("SELECT")}
	return script{
		&pgproto3.RowDescription{}, row("16/B374D848", "4294967295"), done, // 0
		&pgproto3.NoticeResponse{Severity: "WARNING", Message: "careful"},                                      // 3
		&pgproto3.RowDescription{}, row("16385", "/space", "4503599627370497"), row("NULL", "NULL", "1"), done, // 4
		&pgproto3.CopyOutResponse{},                                              // 8
		data("n16385.tar\x00/space\x00"), data("dabc"), data("p\x00"), data("m"), // 9
		&pgproto3.CopyDone{},                                                     // 13
		&pgproto3.RowDescription{}, row("16/B374D900", "4294967295"), done, done, // 14
		&pgproto3.ReadyForQuery{TxStatus: 'I'}, // 18
	}
}

// readAll reads an answer to its end.
func readAll(t *testing.T, s *stream) (kinds string, end position, damaged bool, err error) {
	t.Helper()
	if err := s.start(t.Context(), request{label: "l", checkpoint: Fast}); err != nil {
		return "", end, false, err
	}
	for {
		c, err := s.next(t.Context())
		if err != nil {
			return kinds, end, false, err
		}
		if c.kind == chunkEnd {
			end, damaged, err = s.finish(t.Context())
			return kinds, end, damaged, err
		}
		kinds += string(rune(c.kind)) + string(c.data[:min(len(c.data), 3)])
	}
}

func TestStreamReadsAnswer(t *testing.T) {
	s := &stream{major: 15, conn: scripted(t, answer())}
	kinds, end, damaged, err := readAll(t, s)
	if err != nil || damaged || kinds != "n163dabcm" {
		t.Errorf("chunks %q, damaged %v, %v", kinds, damaged, err)
	}
	if s.begin != (position{0x16_B374D848, 4294967295}) || end != (position{0x16_B374D900, 4294967295}) {
		t.Errorf("from %v to %v", s.begin, end)
	}
	if diff := cmp.Diff([]Tablespace{{OID: 16385, Location: "/space"}}, s.tablespaces); diff != "" {
		t.Errorf("tablespaces (-want +got):\n%s", diff)
	}
	if s.estimate != 4503599627370498<<10 { // KiB in the answer
		t.Errorf("estimate %d", s.estimate)
	}
}

// oldAnswer is the same of a server before PostgreSQL 15: a copy for each tar
// stream, and one for the manifest.
func oldAnswer() script {
	a := answer()
	copies := script{
		&pgproto3.CopyOutResponse{}, data("abc"), data("d"), &pgproto3.CopyDone{}, // 8
		&pgproto3.CopyOutResponse{}, &pgproto3.CopyDone{}, // 12
		&pgproto3.CopyOutResponse{}, data("m"), &pgproto3.CopyDone{}, // 14
	}
	return slices.Concat(a[:8], copies, a[14:]) // 17: the result set of the stop
}

func TestStreamReadsOldAnswer(t *testing.T) {
	for _, major := range []int{13, 14} {
		s := &stream{major: major, conn: scripted(t, oldAnswer())}
		kinds, end, damaged, err := readAll(t, s)
		if err != nil || damaged || kinds != "ndabcddnmdm" {
			t.Errorf("chunks %q, damaged %v, %v", kinds, damaged, err)
		}
		if s.begin.lsn != 0x16_B374D848 || end.lsn != 0x16_B374D900 {
			t.Errorf("from %v to %v", s.begin, end)
		}
		if diff := cmp.Diff([]uint32{16385, 0}, s.archives); diff != "" {
			t.Errorf("archives (-want +got):\n%s", diff)
		}
	}
}

func TestStreamRefusesInOldAnswer(t *testing.T) {
	refusal := &pgproto3.ErrorResponse{Severity: "ERROR", Code: "58030", Message: "could not read"}
	for name, c := range map[string]struct {
		at   int // index in the answer of the message replaced
		with pgproto3.BackendMessage
		want string
	}{
		"no stream":             {8, &pgproto3.CopyInResponse{}, "unexpected message *pgproto3.CopyInResponse"},
		"refused in the stream": {10, refusal, "could not read"},
		"refused in between":    {12, refusal, "could not read"},
		"stream in a stream":    {10, &pgproto3.CopyOutResponse{}, "unexpected message *pgproto3.CopyOutResponse"},
		"no manifest":           {14, row("1"), "unexpected message *pgproto3.DataRow"},
	} {
		messages := oldAnswer()
		messages[c.at] = c.with
		_, _, _, err := readAll(t, &stream{major: 14, conn: scripted(t, messages)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	for cut := range len(oldAnswer()) {
		if _, _, _, err := readAll(t, &stream{major: 14, conn: scripted(t, oldAnswer()[:cut])}); err == nil {
			t.Errorf("accepted when cut off before message %d", cut)
		}
	}
}

func TestCommandByMajor(t *testing.T) {
	slow := request{label: "it's", checkpoint: Spread}
	fast := request{label: "l", checkpoint: Fast, maxRate: 32}
	for major := 13; major <= 18; major++ {
		want := map[request]string{
			slow: "BASE_BACKUP (LABEL 'it''s', PROGRESS, TABLESPACE_MAP, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', CHECKPOINT 'spread', WAIT 0, TARGET 'client')",
			fast: "BASE_BACKUP (LABEL 'l', PROGRESS, TABLESPACE_MAP, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', MAX_RATE 32, CHECKPOINT 'fast', WAIT 0, TARGET 'client')",
		}
		if major < 15 {
			want = map[request]string{
				slow: "BASE_BACKUP LABEL 'it''s' PROGRESS TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C' NOWAIT",
				fast: "BASE_BACKUP LABEL 'l' PROGRESS TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C' MAX_RATE 32 NOWAIT FAST",
			}
		}
		for r, text := range want {
			if got := r.command(major); got != text {
				t.Errorf("PostgreSQL %d: %s\nwant %s", major, got, text)
			}
		}
	}
}

// The server reports damaged pages when everything has been sent; the same
// code before that is the end of the backup.
func TestStreamDamagedPages(t *testing.T) {
	failure := &pgproto3.ErrorResponse{Severity: "ERROR", Code: "XX001", Message: "checksum verification failure during base backup"}
	late := answer()
	late[17] = failure
	if _, end, damaged, err := readAll(t, &stream{major: 15, conn: scripted(t, late)}); err != nil || !damaged || end.lsn == 0 {
		t.Errorf("at the end: damaged %v, %v", damaged, err)
	}
	early := answer()
	early[10] = failure
	if _, _, _, err := readAll(t, &stream{major: 15, conn: scripted(t, early)}); pg.Code(err) != "XX001" {
		t.Errorf("in the stream: %v", err)
	}
}

// Whatever else comes ends the backup with an error that says what it was.
func TestStreamRefuses(t *testing.T) {
	refusal := &pgproto3.ErrorResponse{Severity: "ERROR", Code: "55000", Message: "the standby was promoted", Hint: "take another"}
	for name, c := range map[string]struct {
		at   int // index in the answer of the message replaced
		with pgproto3.BackendMessage
		want string
	}{
		"start without LSN":    {1, row("here", "1"), "no LSN"},
		"start on timeline 0":  {1, row("0/1", "0"), "no timeline"},
		"one column":           {1, row("0/1"), "unusable answer"},
		"no start":             {1, &pgproto3.NoticeResponse{}, "unusable answer"},
		"refused":              {0, refusal, "the standby was promoted"},
		"refused in between":   {10, refusal, "the standby was promoted"},
		"refused at the stop":  {14, refusal, "the standby was promoted"},
		"refused at the end":   {18, refusal, "the standby was promoted"},
		"tablespace of a name": {5, row("space", "/space", "1"), "unusable tablespace"},
		"tablespace cut off":   {5, row("16385"), "unusable tablespace"},
		"no stream":            {8, &pgproto3.CopyInResponse{}, "unexpected message *pgproto3.CopyInResponse"},
		"unknown archive":      {9, data("n1.tar\x00\x00"), "belongs to no tablespace"},
		"empty message":        {10, data(""), "empty message"},
		"rows in the stream":   {10, row("1"), "unexpected message *pgproto3.DataRow"},
		"stop without LSN":     {15, row("NULL", "NULL"), "no LSN"},
		"more at the end":      {17, data("d"), "unexpected message *pgproto3.CopyData"},
	} {
		messages := answer()
		messages[c.at] = c.with
		_, _, _, err := readAll(t, &stream{major: 15, conn: scripted(t, messages)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		if c.with == pgproto3.BackendMessage(refusal) && !cmp.Equal(hint.Of(err), []string{"take another"}) {
			t.Errorf("%s: hints %q, want the server's", name, hint.Of(err))
		}
	}
	for cut := range len(answer()) {
		if _, _, _, err := readAll(t, &stream{major: 15, conn: scripted(t, answer()[:cut])}); err == nil {
			t.Errorf("accepted when cut off before message %d", cut)
		}
	}
}
