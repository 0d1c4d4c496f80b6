// Package segment is the vocabulary and the local store of WAL segments:
// names for any wal_segment_size, timeline histories, and the spool, the
// directory in which received WAL is made durable before it is acknowledged.
package segment
