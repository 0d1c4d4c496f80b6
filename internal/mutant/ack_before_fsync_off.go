//go:build !mutant_ack_before_fsync

package mutant

// AckBeforeFsync acknowledges WAL when it has been received (against P1).
const AckBeforeFsync = false
