// Command walstream streams the WAL of a PostgreSQL cluster into an archive,
// takes base backups and restores to any point in time. Each command has its
// own file here; what runs beside what is decided here and nowhere else.
package main

import (
	"os"

	_ "time/tzdata" // one static binary: zones must not depend on the host
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, os.Environ()))
}
