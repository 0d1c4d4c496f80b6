//go:build !mutant_walget_absent

package mutant

// WalGetAbsent calls a file absent of which nothing is known (against P5).
const WalGetAbsent = false
