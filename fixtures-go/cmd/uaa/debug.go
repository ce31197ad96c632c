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

// debug serves the test-only endpoints: the runtime's own figures, and causes of known size.
type debug struct {
	mutex   sync.Mutex // Held while a truth is read and written, and while the known causes change.
	truth   *truth
	log     io.Writer // Receives truths that no connection of their own asked for.
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

// counted handles POST requests whose query contains the named numbers.
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

// runtime answers with the runtime's own figures. It takes the connection over first, so that the figures include
// everything a request allocates, and nothing is allocated between reading the figures and the end of the connection.
// One of the goroutines is the request's own and ends with it.
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

// tell writes the runtime's own figures to the log, as one line of JSON.
func (d *debug) tell(...uint64) error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.truth.read()
	_, err := d.log.Write(d.truth.line())
	return err
}

// awaitEnd returns after a signal, when the runtime's own figures are in the log. They are read before anything that
// the end needs.
func (d *debug) awaitEnd(signals <-chan os.Signal) {
	// A goroutine's first sleep allocates a timer, and reading a truth may sleep.
	time.Sleep(time.Nanosecond)
	<-signals
	// Whoever reads the log notices if it cannot be written.
	_ = d.tell()
}

// gc runs the GC n times.
func (d *debug) gc(numbers ...uint64) error {
	for i := uint64(0); i < numbers[0]; i++ {
		runtime.GC()
	}
	return nil
}

// stops stops the world n times, without other effect.
func (d *debug) stops(numbers ...uint64) error {
	var stats runtime.MemStats
	for i := uint64(0); i < numbers[0]; i++ {
		runtime.ReadMemStats(&stats)
	}
	return nil
}

// allocated keeps the last allocation of alloc alive, so that the compiler does not remove the allocations.
var allocated atomic.Pointer[byte]

// alloc allocates n objects of the given size in bytes.
func (d *debug) alloc(numbers ...uint64) error {
	for i := uint64(0); i < numbers[0]; i++ {
		allocateKnownSize(numbers[1])
	}
	return nil
}

// allocateKnownSize is a call site of its own, for tests of attribution.
//
//go:noinline
func allocateKnownSize(size uint64) {
	if object := make([]byte, size); size > 0 {
		allocated.Store(&object[0])
	}
}

// goroutines parks n more goroutines, or releases all parked ones if n is 0.
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

// releaseAll returns when the runtime no longer counts the goroutines, which is a moment after they end.
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

// mmap maps the given number of bytes, touches them and forgets them.
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
