package defect

import (
	"math/bits"
	"sync/atomic"
)

// Alloc makes every request allocate more.
//
// In the field: a "harmless" change copies what a request has rendered, for a debug log that is switched off, a retry
// that never comes, or a conversion between []byte and string. Nothing is retained and no test fails; the GC runs that
// much more often.
type Alloc struct {
	percent float64
	owed    owed
}

// smallestPiece is the smallest allocation that is not packed together with others by the runtime's tiny allocator.
const smallestPiece = 16

// copied keeps the copies from being optimised away, the last one alive.
var copied atomic.Pointer[byte]

// NewAlloc makes every request allocate percent more bytes than it does without.
func NewAlloc(percent float64) *Alloc {
	return &Alloc{percent: percent}
}

// OnRequest is called once a request, with the bytes that this kind of request allocates without the defect.
func (a *Alloc) OnRequest(healthyBytes uint64) {
	copyForDebugLog(a.owed.charge(uint64(float64(healthyBytes)*a.percent/100), smallestPiece))
}

// copyForDebugLog allocates exactly so many bytes: powers of two up to 32 KiB are size classes of the Go heap, so that
// nothing is rounded up.
//
//go:noinline
func copyForDebugLog(total uint64) {
	const largest = 32 << 10
	for total >= smallestPiece {
		piece := uint64(largest)
		if total < largest {
			piece = 1 << (bits.Len64(total) - 1)
		}
		document := make([]byte, piece)
		copied.Store(&document[0])
		total -= piece
	}
}
