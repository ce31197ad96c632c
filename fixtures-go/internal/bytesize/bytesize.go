// Package bytesize reads sizes such as 512, 64KiB and 8MiB from the command line.
package bytesize

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes. It implements flag.Value.
type Size uint64

var suffixes = []struct {
	name  string
	bytes uint64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}, {"", 1}}

// Set parses a whole number, alone or followed by B, KiB, MiB or GiB.
func (s *Size) Set(text string) error {
	for _, suffix := range suffixes {
		digits, found := strings.CutSuffix(text, suffix.name)
		if !found {
			continue
		}
		number, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 64)
		if err != nil || number > math.MaxInt64/suffix.bytes {
			break
		}
		*s = Size(number * suffix.bytes)
		return nil
	}
	return fmt.Errorf("%q is not a size; write a whole number of B, KiB, MiB or GiB, such as 64KiB", text)
}

// String returns the size in bytes.
func (s *Size) String() string {
	return strconv.FormatUint(uint64(*s), 10)
}
