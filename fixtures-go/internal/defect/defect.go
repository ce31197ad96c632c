// Package defect holds the planted defects of the fixtures, one a file. Each is off until it is asked for, and each says
// what the bug looks like in the field.
package defect

import "sync/atomic"

// owed is an account of bytes that requests owe and that are paid out in whole pieces, so that no rounding is lost.
type owed struct {
	bytes atomic.Uint64
}

// charge adds to the account and returns the whole multiple of piece that is now due, taking it off the account.
func (o *owed) charge(bytes, piece uint64) uint64 {
	for {
		old := o.bytes.Load()
		sum := old + bytes
		rest := sum % piece
		if o.bytes.CompareAndSwap(old, rest) {
			return sum - rest
		}
	}
}
