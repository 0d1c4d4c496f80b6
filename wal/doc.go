// Package wal reads what is inside PostgreSQL's write-ahead log: pages,
// records, and the few kinds of record that matter to archiving and recovery.
//
// A [Scanner] is fed contiguous bytes in any portions and calls back for each
// record. It believes nothing: a record is reported only after its page
// headers, its link to the record before and its CRC were verified, as
// PostgreSQL's own reader does (xlogreader.c), and where that reader would
// stop, the scanner stops with an [*EndError]. A record that is cut by the end
// of one stretch of WAL is carried to the next in a [Carry], so that segments
// can be read one by one and each record still be checked as a whole.
//
// A [Summarizer] makes the [Summary] that is stored with each segment,
// [Points] collects what recovery can stop at, [ValidEnd] says how far an
// unfinished segment can be trusted.
//
// The formats of PostgreSQL 13 to 18 are understood, as written on
// little-endian machines with the default WAL block size of 8 KiB. Their
// source is access/xlog_internal.h (pages), access/xlogrecord.h (records),
// access/xact.h (commits and aborts) and catalog/pg_control.h.
package wal
