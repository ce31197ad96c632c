package defect

import "sync/atomic"

// Goroutines leaks a goroutine in one of every q requests.
//
// In the field: a request hands work to a goroutine that answers over an unbuffered channel. The request gives up (a
// timeout, an error on another path) and nobody ever receives. The goroutine, its stack and everything that it refers
// to stay until the process ends.
type Goroutines struct {
	one      uint64
	requests atomic.Uint64
}

// NewGoroutines leaks one goroutine in every q requests; q is at least 1.
func NewGoroutines(q uint64) *Goroutines {
	return &Goroutines{one: q}
}

// OnRequest is called once for each request.
func (g *Goroutines) OnRequest() {
	if g.requests.Add(1)%g.one != 0 {
		return
	}
	result := make(chan struct{})
	go notifyRiskEngine(result)
}

func notifyRiskEngine(result chan<- struct{}) {
	result <- struct{}{} // The request gave up long ago.
}
