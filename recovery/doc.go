// Package recovery is the way back: it plans a point-in-time recovery, lays
// the cluster down, writes its recovery configuration and feeds it WAL.
//
// The planner ([MakePlan]) is pure. It works on [Facts] and asks for those it
// lacks, so that it can be tested without a server or an archive, and the plan
// that a dry run prints is the value that [Plan.Execute] carries out. It
// refuses before a byte is written: a target that cannot be reached is a
// [*Refusal] that names the nearest points that can.
//
// Behind everything stands one rule: PostgreSQL takes a segment that it cannot
// get, and WAL that it cannot read, for the end of WAL, and goes live there.
// So nothing is ever called absent that is only unknown, and nothing is served
// that was not verified.
package recovery
