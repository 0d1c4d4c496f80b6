package config

import (
	"fmt"
	"math"

	"github.com/dustin/go-humanize"
)

// Size is a number of bytes as a flag or setting: 16GiB, 50MB, 4096. It
// implements pflag.Value.
type Size int64

// Set reads the text form.
func (s *Size) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is no size: write it like 50MiB or 16GiB", text)
	}
	*s = Size(n)
	return nil
}

// String is "0" for zero, otherwise the size in its largest whole unit, so
// that reading it back gives the same number.
func (s Size) String() string {
	units := []string{"", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	n, i := int64(s), 0
	for n != 0 && n%1024 == 0 && i < len(units)-1 {
		n /= 1024
		i++
	}
	return fmt.Sprintf("%d%s", n, units[i])
}

// Type names the value in help texts.
func (s *Size) Type() string { return "size" }
