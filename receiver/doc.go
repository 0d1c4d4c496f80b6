// Package receiver streams WAL from a PostgreSQL primary by the physical
// replication protocol and tells the primary how much of it is safe.
//
// What it promises (docs/guarantees.md):
//
//   - P1. A flush position is reported only after the [Sink] said that the
//     bytes up to it are durable. The history file of a timeline is durable
//     before any WAL of that timeline is asked for.
//   - P2. The stream does not use the replication slot. [HoldSlot] moves the
//     slot to what the archive holds, so that the primary keeps the rest.
//   - P8. A server of another cluster is refused before a byte is stored.
//
// The reading order is the running order: receiver.go (reconnecting),
// hosts.go (which server), session.go (one connection), timeline.go (what to
// stream next), stream.go (frames into the sink, group commit), feedback.go
// (status), hold.go.
//
// Facts about the protocol are those of PostgreSQL's
// src/backend/replication/walsender.c.
package receiver
