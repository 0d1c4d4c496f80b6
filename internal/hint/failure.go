package hint

import "time"

// Failure is something that fails and is tried again. It is nil while nothing
// fails, and never changed, so that it may be passed around.
type Failure struct {
	Error string    `json:"error"` // of the last try
	Hints []string  `json:"hints,omitempty"`
	Since time.Time `json:"since"` // the first try that failed
	Last  time.Time `json:"last"`
	Count int64     `json:"count"` // of tries
}

// Again is f after one more try that failed with err at now.
func (f *Failure) Again(err error, now time.Time) *Failure {
	next := &Failure{Error: err.Error(), Hints: Of(err), Since: now, Last: now, Count: 1}
	if f != nil {
		next.Since, next.Count = f.Since, f.Count+1
	}
	return next
}

// String is the error, "" for nil.
func (f *Failure) String() string {
	if f == nil {
		return ""
	}
	return f.Error
}

// InUTC is f with its times in UTC.
func (f *Failure) InUTC() *Failure {
	if f == nil {
		return nil
	}
	next := *f
	next.Since, next.Last = f.Since.UTC(), f.Last.UTC()
	return &next
}
