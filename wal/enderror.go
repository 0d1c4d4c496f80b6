package wal

import "fmt"

// EndError says where bytes stop being valid WAL, and why. It is no failure
// where unfinished WAL is read, and corruption where WAL must be complete.
type EndError struct {
	// LSN is where the doubt begins: the record or page that was refused. A
	// record that was carried into the scan lies before its start; otherwise
	// [Scanner.End] is at or before LSN.
	LSN LSN
	// Zeros says that zeros stand where a record or a page header should:
	// nothing was written there yet. A record may be unfinished before them.
	// False means that there is something, and it is not valid WAL.
	Zeros  bool
	Reason string
}

func (e *EndError) Error() string { return fmt.Sprintf("WAL ends at %s: %s", e.LSN, e.Reason) }
