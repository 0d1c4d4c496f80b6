//go:build mutant_no_dirsync

package mutant

// NoDirSync leaves out the fsync of the directory of a new file (against P1, P3).
const NoDirSync = true
