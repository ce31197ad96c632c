// Command stack-creep leaks stacks and nothing else. It has sixteen workers. A worker takes its next job by calling
// itself where it should loop, so its stack gets one frame deeper with every job. The heap does not grow, and neither
// does the number of goroutines.
//
// Stacks are in no heap profile. golang/go#20010 is a service whose stacks grew from 4 to 40 GB; golang/go#15848 and
// golang/go#66566 ask for a profile of stacks.
package main

import (
	"flag"
	"fmt"
	"log"
	"math"
	"net/http"
	"sync/atomic"

	"memgate.dev/fixtures/internal/chores"
)

const workers = 16

type job struct {
	number uint64
	answer chan<- uint64
}

type worker struct{ jobs chan job }

// next does one job and then, "to retry at once", itself again.
//
//go:noinline
func (w *worker) next(j job) {
	var scratch [1024]byte // It lives on the stack.
	for i := range scratch {
		scratch[i] = byte(j.number >> (i % 8))
	}
	sum := uint64(0)
	for _, b := range scratch {
		sum += uint64(b)
	}
	j.answer <- sum
	w.next(<-w.jobs)
	scratch[0]++ // There is something left to do when next returns, which it never does.
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19102", "address")
	flag.Parse()
	pool := make([]*worker, workers)
	for i := range pool {
		pool[i] = &worker{jobs: make(chan job)}
		go func(w *worker) { w.next(<-w.jobs) }(pool[i])
	}
	var number atomic.Uint64
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		n := number.Add(1)
		answer := make(chan uint64, 1)
		// Later workers get more jobs, so the stacks double one after the other and not all at once.
		share := int(math.Sqrt(float64(n * 97 % (workers * workers))))
		pool[share].jobs <- job{n, answer}
		fmt.Fprintln(w, <-answer, chores.Do())
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
