package wal

// Summarizer reads one stretch of WAL, a segment or the beginning of one, and
// says what is in it. It is not for concurrent use.
type Summarizer struct {
	scan  *Scanner
	start LSN
	user  func(*Record) error
	sum   Summary
}

// NewSummarizer starts at cfg.Start. cfg.OnRecord, if given, is called for
// each record as a Scanner would.
func NewSummarizer(cfg ScanConfig) *Summarizer {
	z := &Summarizer{start: cfg.Start, user: cfg.OnRecord}
	cfg.OnRecord = z.onRecord
	z.scan = NewScanner(cfg)
	return z
}

// Write takes the next bytes, in portions of any size. Its errors are those of
// [Scanner.Feed] and stay: after an [*EndError] the summary covers what was
// valid.
func (z *Summarizer) Write(p []byte) (int, error) { return z.scan.Write(p) }

// Finish returns the summary of all that was fed, the carry with which the
// next segment is read (nil at a record boundary), and the error with which
// Write failed, if it did; the summary is then of the valid part.
func (z *Summarizer) Finish() (Summary, *Carry, error) {
	sum := z.sum
	if sum.Last != nil { // more may be fed
		last := *sum.Last
		sum.Last = &last
	}
	carry := z.scan.Carry()
	if sum.FirstRecord == 0 && carry != nil && carry.Start >= z.start {
		sum.FirstRecord = carry.Start
	}
	if sum.Records > 0 {
		sum.ValidEnd = z.scan.End()
	}
	sum.UnknownCarry = z.scan.UnknownCarry()
	return sum, carry, z.scan.err
}

func (z *Summarizer) onRecord(r *Record) error {
	s := &z.sum
	s.Records++
	s.LastRecord = r.LSN
	s.Switch = r.Switch()
	if s.FirstRecord == 0 && r.LSN >= z.start {
		s.FirstRecord = r.LSN
	}
	if f, ok := r.Finish(); ok {
		s.add(f)
	}
	if p, ok := r.RestorePoint(); ok {
		s.RestorePoints = append(s.RestorePoints, p)
	}
	if t, ok := r.Tablespace(); ok {
		s.Tablespaces = append(s.Tablespaces, t)
	}
	if c, ok := r.ParameterChange(); ok {
		s.Settings = append(s.Settings, c)
	}
	if z.user != nil {
		return z.user(r)
	}
	return nil
}

func (s *Summary) add(f Finish) {
	if f.Abort {
		s.Aborts++
	} else {
		s.Commits++
	}
	if s.First == nil {
		first := f
		s.First = &first
		s.Last = new(Finish)
	}
	*s.Last = f
	s.extend(f.Time, f.XID)
}
