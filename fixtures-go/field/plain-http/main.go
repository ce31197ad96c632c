// Command plain-http is a small service as most are: it answers a few bytes, allocates what net/http does, and its GC
// runs every few seconds. It is healthy unless a flag says otherwise.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"sync"
	"sync/atomic"
)

type entry struct {
	older *entry
	note  [1008]byte
}

// journal keeps an entry of 1 KiB for one request in every.
type journal struct {
	mutex  sync.Mutex
	newest *entry
}

//go:noinline
func (j *journal) remember() {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	j.newest = &entry{older: j.newest}
}

// await starts a goroutine for an answer that nobody sends.
//
//go:noinline
func await() {
	answer := make(chan struct{})
	go func() { <-answer }()
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19122", "address")
	remember := flag.Uint64("remember", 0, "one request in so many is remembered for ever; 0 for none")
	wait := flag.Uint64("await", 0, "one request in so many leaves a goroutine; 0 for none")
	flag.Parse()
	var j journal
	var requests atomic.Uint64
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		n := requests.Add(1)
		if *remember > 0 && n%*remember == 0 {
			j.remember()
		}
		if *wait > 0 && n%*wait == 0 {
			await()
		}
		fmt.Fprintln(w, n)
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
