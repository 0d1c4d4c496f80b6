// Package mutant holds mistakes that lose data. Each is a constant that is
// false unless the build tag of its file is set, and changes one place of the
// product. They show that the tests would find such a mistake: `make mutants`
// requires that they fail with each. A binary made with such a tag is for
// tests of the tests only:
//
//	mutant_ack_before_fsync
//	mutant_no_dirsync
//	mutant_walget_absent
//	mutant_slot_early
package mutant
