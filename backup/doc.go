// Package backup takes base backups over the replication protocol and keeps
// them in an archive.
//
// A backup is streamed: no byte of it touches the local disk, and memory does
// not grow with the size of the cluster, but for the list of its files. The
// tar streams that PostgreSQL sends are cut between files into parts, which
// are compressed and stored while they arrive. Every file's checksum is
// computed as it passes and compared with PostgreSQL's own backup_manifest,
// which is stored too, byte for byte.
//
// A backup exists once its commit object does ([Commit]). That is written
// last, when every part is stored, every checksum agrees and the archive holds
// all WAL from the backup's start to its stop. Whatever fails before leaves
// objects that no reader looks at.
package backup
