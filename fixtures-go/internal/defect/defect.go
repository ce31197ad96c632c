// Package defect contains the planted defects of the fixtures, one in each file. Each is off by default, and each
// describes how the bug looks in the field.
package defect

import "sync/atomic"

// owed is an account of bytes that requests owe. It is paid in whole pieces, so no rounding is lost.
type owed struct {
	bytes atomic.Uint64
}

// charge adds to the account and returns the whole multiple of piece that is now due, which it takes off the account.
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
