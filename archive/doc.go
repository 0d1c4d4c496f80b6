// Package archive is the durable home of WAL segments, timeline histories and
// backups: named objects in a directory or an object store, written once and
// never changed. FORMAT.md beside this file is its specification.
package archive
