// Package fraction picks an exact share of a sequence of events, without chance.
package fraction

import (
	"fmt"
	"math"
	"sync/atomic"
)

// unit is the resolution of a share: one part in 10^9.
const unit = 1_000_000_000

// Chooser picks an exact share f of the calls of Next: each call at which the accumulated f crosses an integer. After n
// calls it has picked floor(n*f) of them, whatever the order of the goroutines is, so two runs with the same number of
// requests do the same work. A Chooser is safe for concurrent use.
type Chooser struct {
	step        uint64
	accumulated atomic.Uint64
}

// New returns a chooser of the share f, from 0 (never) to 1 (always), rounded to 9 decimal places.
func New(f float64) (*Chooser, error) {
	if math.IsNaN(f) || f < 0 || f > 1 {
		return nil, fmt.Errorf("a share must be between 0 and 1, not %v", f)
	}
	return &Chooser{step: uint64(math.Round(f * unit))}, nil
}

// Next reports whether the next event belongs to the share. The counter suffices for 1.8e10 events.
func (c *Chooser) Next() bool {
	after := c.accumulated.Add(c.step)
	return after/unit != (after-c.step)/unit
}
