//go:build !chaos

package fsx

// OS is the operating system's file system.
type OS struct{ disk }
