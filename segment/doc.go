// Package segment is the vocabulary and the local store of WAL segments:
// names for any wal_segment_size, timeline histories, and the spool, the
// directory in which received WAL is made durable before it is acknowledged.
//
// A [Spool] directory holds, under PostgreSQL's names where there are such:
//
//	walstream.json               whose WAL it is
//	lock                         held by the process that writes
//	<SEGMENT>.partial            a segment being written, of its full size: the open one,
//	                             the one before until it is sealed, and the next, prepared
//	<SEGMENT>                    a complete segment
//	<SEGMENT>.<END>.tail         a segment up to offset END (8 hexadecimal digits),
//	                             where its timeline ended or a gap begins
//	<TIMELINE>.history           a timeline history
//	<any of them>.bad-<n>        what could not be used; kept, never read again
//
// The policy: bytes count as durable when they were fdatasynced in a file
// whose name was fsynced before; a hole is never counted over. Nothing that is
// durable is overwritten, and nothing is removed before its release. What an
// earlier process left in an unfinished segment is believed as far as its
// records are valid, and written anew before it counts.
package segment
