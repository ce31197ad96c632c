package defect

import (
	"math/bits"
	"sync/atomic"
)

// Alloc makes every request allocate more.
//
// In the field: a "harmless" change copies the output of a request, for a debug log that is switched off, a retry that
// never happens, or a conversion between []byte and string. Nothing is retained and no test fails; the GC just runs
// more often.
type Alloc struct {
	percent float64
	owed    owed
}

// smallestPiece is the smallest allocation that the runtime's tiny allocator does not combine with others.
const smallestPiece = 16

// copied keeps the last copy alive, so that the compiler does not remove the copies.
var copied atomic.Pointer[byte]

// NewAlloc makes every request allocate the given percentage more bytes.
func NewAlloc(percent float64) *Alloc {
	return &Alloc{percent: percent}
}

// OnRequest is called once for each request, with the bytes that this kind of request allocates without the defect.
func (a *Alloc) OnRequest(healthyBytes uint64) {
	copyForDebugLog(a.owed.charge(uint64(float64(healthyBytes)*a.percent/100), smallestPiece))
}

// copyForDebugLog allocates exactly this many bytes. Powers of two up to 32 KiB are size classes of the Go heap, so
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
