package wal

// Carry is the state of a [Scanner] between two calls: a record whose
// beginning was read and whose rest comes later. It is small, so that it can
// be stored with each segment: of the record only the CRC so far is kept, and
// the first bytes if the record is of a kind that summaries look into.
type Carry struct {
	Start LSN    `json:"start"`          // of the unfinished record
	Prev  LSN    `json:"prev"`           // start of the record before it
	Total uint32 `json:"total"`          // xl_tot_len
	Have  uint32 `json:"have"`           // bytes of it read so far
	CRC   uint32 `json:"crc"`            // of the bytes behind the header so far
	Head  []byte `json:"head"`           // up to 24 bytes of the record header
	Body  []byte `json:"body,omitempty"` // what followed, for records of interest
}
