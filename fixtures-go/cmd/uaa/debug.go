package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"memgate.dev/fixtures/internal/defect"
)

// debug serves the test-only endpoints: what the runtime says of itself, and causes of known size.
type debug struct {
	mutex   sync.Mutex // Held while a truth is read and told, and while what it knows of causes changes.
	truth   *truth
	log     io.Writer // Where truths are told that nobody asked for over a connection of their own.
	release chan struct{}
	parked  sync.WaitGroup
}

func newDebug(log io.Writer) *debug {
	return &debug{truth: newTruth(), log: log, release: make(chan struct{})}
}

func (d *debug) register(mux *http.ServeMux) {
	mux.HandleFunc("/debug/runtime", d.runtime)
	mux.HandleFunc("/debug/log", counted(d.tell))
	mux.HandleFunc("/debug/gc", counted(d.gc, "n"))
	mux.HandleFunc("/debug/stops", counted(d.stops, "n"))
	mux.HandleFunc("/debug/alloc", counted(d.alloc, "n", "size"))
	mux.HandleFunc("/debug/goroutines", counted(d.goroutines, "n"))
	mux.HandleFunc("/debug/mmap", counted(d.mmap, "bytes"))
	mux.HandleFunc("/debug/malloc", counted(d.malloc, "bytes"))
	mux.HandleFunc("/debug/memprofile", serveMemProfile)
}

// counted is a handler of POST requests whose query gives the named numbers.
func counted(act func(numbers ...uint64) error, names ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !allowed(w, r, http.MethodPost) {
			return
		}
		numbers := make([]uint64, len(names))
		for i, name := range names {
			number, err := strconv.ParseUint(r.URL.Query().Get(name), 10, 40)
			if err != nil {
				http.Error(w, fmt.Sprintf("?%s= must be a whole number", name), http.StatusBadRequest)
				return
			}
			numbers[i] = number
		}
		if err := act(numbers...); err != nil {
			http.Error(w, err.Error(), http.StatusNotImplemented)
			return
		}
		fmt.Fprintln(w, "done")
	}
}

// runtime answers with the runtime's own figures. It takes the connection over first, so that everything a request
// allocates is in the figures, and nothing is allocated between their reading and the end of the connection. Of the
// goroutines one is the request's own and ends with it.
func (d *debug) runtime(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r, http.MethodGet) {
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.truth.read()
	conn.Write(d.truth.response())
}

// tell writes the runtime's own figures to the log: one line of JSON.
func (d *debug) tell(...uint64) error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.truth.read()
	_, err := d.log.Write(d.truth.line())
	return err
}

// awaitEnd returns at a signal, once the runtime's own figures are in the log: what they were before anything that the end
// needs.
func (d *debug) awaitEnd(signals <-chan os.Signal) {
	// A goroutine's first sleep allocates a timer, and reading a truth may sleep.
	time.Sleep(time.Nanosecond)
	<-signals
	// A log that cannot be written is seen by who reads it.
	_ = d.tell()
}

// gc runs the GC n times.
func (d *debug) gc(numbers ...uint64) error {
	for i := uint64(0); i < numbers[0]; i++ {
		runtime.GC()
	}
	return nil
}

// stops stops the world n times, for nothing.
func (d *debug) stops(numbers ...uint64) error {
	var stats runtime.MemStats
	for i := uint64(0); i < numbers[0]; i++ {
		runtime.ReadMemStats(&stats)
	}
	return nil
}

// allocated keeps what alloc allocates from being optimised away, the last one alive.
var allocated atomic.Pointer[byte]

// alloc allocates n objects of so many bytes each.
func (d *debug) alloc(numbers ...uint64) error {
	for i := uint64(0); i < numbers[0]; i++ {
		allocateKnownSize(numbers[1])
	}
	return nil
}

// allocateKnownSize is a call site by itself, for tests of attribution.
//
//go:noinline
func allocateKnownSize(size uint64) {
	if object := make([]byte, size); size > 0 {
		allocated.Store(&object[0])
	}
}

// goroutines parks n goroutines more, or releases all parked ones if n is 0.
func (d *debug) goroutines(numbers ...uint64) error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if numbers[0] == 0 {
		d.releaseAll()
		return nil
	}
	for i := uint64(0); i < numbers[0]; i++ {
		d.parked.Add(1)
		go parkUntil(d.release, &d.parked)
		d.truth.parked++
	}
	return nil
}

func parkUntil(release <-chan struct{}, parked *sync.WaitGroup) {
	defer parked.Done()
	<-release
}

// releaseAll returns once the runtime does not count the goroutines any more, which is a moment after they are done.
func (d *debug) releaseAll() {
	close(d.release)
	d.release = make(chan struct{})
	d.parked.Wait()
	d.truth.parked = 0
	for before := runtime.NumGoroutine(); ; {
		time.Sleep(5 * time.Millisecond)
		now := runtime.NumGoroutine()
		if now >= before {
			return
		}
		before = now
	}
}

// mmap maps, touches and forgets so many bytes.
func (d *debug) mmap(numbers ...uint64) error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if err := defect.MapAndForget(numbers[0]); err != nil {
		return err
	}
	d.truth.mapped += numbers[0]
	return nil
}

// malloc does the same on the C heap.
func (d *debug) malloc(numbers ...uint64) error {
	return defect.MallocAndForget(numbers[0])
}
