package defect

import "sync/atomic"

// Goroutines leaks a goroutine in one of so many requests.
//
// In the field: a request hands work to a goroutine, which answers over an unbuffered channel; the request gives up
// (a timeout, an error on another path) and nobody ever receives. The goroutine, its stack and all that it refers to
// stay for the life of the process.
type Goroutines struct {
	one      uint64
	requests atomic.Uint64
}

// NewGoroutines leaks one goroutine in every q requests; q is at least 1.
func NewGoroutines(q uint64) *Goroutines {
	return &Goroutines{one: q}
}

// OnRequest is called once a request.
func (g *Goroutines) OnRequest() {
	if g.requests.Add(1)%g.one != 0 {
		return
	}
	result := make(chan struct{})
	go notifyRiskEngine(result)
}

func notifyRiskEngine(result chan<- struct{}) {
	result <- struct{}{} // The request has long given up.
}
