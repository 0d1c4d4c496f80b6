//go:build matrix

package testkit

import (
	"os"
	"testing"
)

// Majors are the major versions that the matrix runs: all that are supported,
// or with MATRIX=short in the environment the oldest and the newest.
func Majors(t testing.TB) []int {
	t.Helper()
	switch mode := os.Getenv("MATRIX"); mode {
	case "", "full":
		return []int{13, 14, 15, 16, 17, 18}
	case "short":
		return []int{13, 18}
	default:
		t.Fatalf("MATRIX=%s: want full or short", mode)
		return nil
	}
}
