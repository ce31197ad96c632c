// Command race-build is healthy. It is an ordinary service with a lock, a few goroutines for each request and calls of
// many depths. But it is built with -race, as the binary of an integration test often is. The race detector's own
// memory is outside of what Go counts, and it grows.
//
// golang/go#63276 and golang/go#37233 are searches for a leak that was the detector's.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"sync"
	"sync/atomic"

	"memgate.dev/fixtures/internal/chores"
)

type totals struct {
	mutex sync.Mutex
	by    [64]uint64
}

func (t *totals) add(slot int, value uint64) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.by[slot%len(t.by)] += value
}

// left and right call each other in the order of the bits of path: there are as many different stacks as paths.
func left(t *totals, path, depth int) { descend(t, path, depth) }

func right(t *totals, path, depth int) { descend(t, path, depth) }

func descend(t *totals, path, depth int) {
	if depth == 0 {
		t.add(path, 1)
		return
	}
	if path>>depth&1 == 0 {
		left(t, path, depth-1)
	} else {
		right(t, path, depth-1)
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19109", "address")
	flag.Parse()
	t := new(totals)
	var requests atomic.Uint64
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		n := int(requests.Add(1))
		var wait sync.WaitGroup
		for i := 0; i < 3; i++ {
			wait.Add(1)
			go func(path int) {
				defer wait.Done()
				descend(t, path, 14)
			}(n*3 + i)
		}
		wait.Wait()
		if err := json.NewEncoder(w).Encode(map[string]int{"request": n, "chores": chores.Do()}); err != nil {
			log.Print(err)
		}
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
