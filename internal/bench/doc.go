// Package bench compares the receiver with PostgreSQL's own pg_receivewal and
// with a hot standby, on the same primary and in the same run. It is a test
// behind the build tag bench, see make bench.
package bench
