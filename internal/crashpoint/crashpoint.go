// Package crashpoint names the moments between two durable steps, at which a
// crash would hurt most. The product calls [Hit] where it passes one. In
// ordinary builds that does nothing and is compiled away; with the build tag
// crashpoint a process can be told by its environment to kill itself there:
//
//	WALSTREAM_CRASH_AT=name[:n]  kill -9 at the n-th hit of name, 1 by default
//	WALSTREAM_CRASH_LOG=file     append the name of every point that is passed
package crashpoint

// Name is a point that was just passed.
type Name string

// The points, in the order in which WAL comes by them. The part before the
// first dash says what is under way.
const (
	ArchivePinned Name = "archive-pinned" // the archive says whose it is

	SpoolPinned    Name = "spool-pinned"     // the spool says whose it is
	SpoolCreated   Name = "spool-created"    // a new segment file, empty, under a temporary name
	SpoolFilled    Name = "spool-filled"     // it has its size and is fsynced
	SpoolNamed     Name = "spool-named"      // it has its name
	SpoolDirSynced Name = "spool-dir-synced" // and will keep it
	SpoolWritten   Name = "spool-written"    // WAL is written
	SpoolSynced    Name = "spool-synced"     // WAL is durable, which nobody knows
	AckSent        Name = "ack-sent"         // the server knows

	SealSynced    Name = "seal-synced"     // a segment is complete and durable
	SealNamed     Name = "seal-named"      // it, or a remainder, has its final name
	SealDirSynced Name = "seal-dir-synced" // and will keep it

	TimelineHistorySaved  Name = "timeline-history-saved"  // the history of a new timeline is durable
	TimelineRemainderMade Name = "timeline-remainder-made" // so is what was open of the old one

	UploadHistoryPut Name = "upload-history-put" // a history is in the archive
	UploadRead       Name = "upload-read"        // a segment was read and described
	UploadPut        Name = "upload-put"         // it is in the archive
	UploadConfirmed  Name = "upload-confirmed"   // the slot may move
	UploadRemoved    Name = "upload-removed"     // the spool's file is gone
	UploadReleased   Name = "upload-released"    // the spool was told

	TailPut     Name = "tail-put"     // a piece of the tail is in the archive
	TailStored  Name = "tail-stored"  // all before it is too, and who waits for it was told
	TailDropped Name = "tail-dropped" // one that is needless is not there any more

	StoreWritten   Name = "store-written"   // an object's bytes are durable, without its name
	StoreLinked    Name = "store-linked"    // it has its name
	StoreSynced    Name = "store-synced"    // and will keep it
	StoreConfirmed Name = "store-confirmed" // an object of another process was made durable

	StateSwapped Name = "state-swapped" // a mutable object has new contents

	SlotReserved Name = "slot-reserved" // the server keeps WAL from now on
	SlotAdvanced Name = "slot-advanced" // it keeps less

	BackupReserved    Name = "backup-reserved"     // the backup has its ID
	BackupPartPut     Name = "backup-part-put"     // one part is in the archive
	BackupManifestPut Name = "backup-manifest-put" // all data is, and agrees with the manifest
	BackupWALArchived Name = "backup-wal-archived" // so is the WAL it needs
	BackupCommitted   Name = "backup-committed"    // it counts

	RestoreSideMade      Name = "restore-side-made"      // plan and marker lie beside the directory
	RestoreSpoolCopied   Name = "restore-spool-copied"   // with the WAL that only the spool had
	RestoreDirsMade      Name = "restore-dirs-made"      // the directories are there, empty
	RestorePartLaid      Name = "restore-part-laid"      // the files of one part are
	RestoreLaid          Name = "restore-laid"           // all are, with pg_control held back
	RestoreConfigured    Name = "restore-configured"     // the settings are written
	RestoreSignalled     Name = "restore-signalled"      // recovery.signal is
	RestoreSynced        Name = "restore-synced"         // all that is durable
	RestoreControlNamed  Name = "restore-control-named"  // pg_control has its name
	RestoreControlSynced Name = "restore-control-synced" // and will keep it
	RestoreFinished      Name = "restore-finished"       // the marker is gone
	WALGetWritten        Name = "walget-written"         // a segment is durable beside its place
	WALGetNamed          Name = "walget-named"           // it is in its place
)

// Names lists all points.
func Names() []Name {
	return []Name{
		ArchivePinned,
		SpoolPinned, SpoolCreated, SpoolFilled, SpoolNamed, SpoolDirSynced, SpoolWritten, SpoolSynced, AckSent,
		SealSynced, SealNamed, SealDirSynced,
		TimelineHistorySaved, TimelineRemainderMade,
		UploadHistoryPut, UploadRead, UploadPut, UploadConfirmed, UploadRemoved, UploadReleased,
		TailPut, TailStored, TailDropped,
		StoreWritten, StoreLinked, StoreSynced, StoreConfirmed,
		StateSwapped,
		SlotReserved, SlotAdvanced,
		BackupReserved, BackupPartPut, BackupManifestPut, BackupWALArchived, BackupCommitted,
		RestoreSideMade, RestoreSpoolCopied, RestoreDirsMade, RestorePartLaid, RestoreLaid, RestoreConfigured,
		RestoreSignalled, RestoreSynced, RestoreControlNamed, RestoreControlSynced, RestoreFinished,
		WALGetWritten, WALGetNamed,
	}
}
