// Command stairs leaks time series. Its registry has a series for each value of a label, the label is the request's
// number, and nobody removes a series. The series lie in one map, whose tables double at about the same time, so the
// live heap grows in stairs: long treads with a shallow slope, and steep steps between them.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"sync"
	"sync/atomic"

	"memgate.dev/fixtures/internal/chores"
)

type key struct {
	metric string
	number uint64
}

// histogram lies in the map itself: values of at most 128 bytes do.
type histogram struct {
	buckets [12]uint64
	sum     uint64
}

type registry struct {
	mutex  sync.Mutex
	series map[key]histogram
}

// observe counts a value in the series of this metric and request.
//
//go:noinline
func (r *registry) observe(metric string, number, value uint64) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	h := r.series[key{metric, number}]
	h.buckets[value%uint64(len(h.buckets))]++
	h.sum += value
	r.series[key{metric, number}] = h
}

var metrics = [...]string{"duration", "size", "queue", "parse", "lookup", "render", "write", "retries", "lag", "rows"}

func main() {
	listen := flag.String("listen", "127.0.0.1:19120", "address")
	flag.Parse()
	r := &registry{series: map[key]histogram{}}
	var requests atomic.Uint64
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		n := requests.Add(1)
		for i, metric := range metrics {
			r.observe(metric, n, n*uint64(i+1))
		}
		fmt.Fprintln(w, n, chores.Do())
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
