package defect

import (
	"runtime"
	"time"
)

// ForceGC starts a goroutine that runs the GC at every interval.
//
// In the field: runtime.GC() or debug.FreeOSMemory() on a timer or after every batch, as a quick fix for an RSS that
// somebody found too high. Each call stops the world twice and marks the whole heap.
func ForceGC(interval time.Duration) {
	go func() {
		for range time.Tick(interval) {
			runtime.GC()
		}
	}()
}

// record is how far TrimLog moves its log. It is a multiple of every vector size, so the copy is as fast as the machine
// allows.
const record = 64

// TrimLog starts a goroutine that moves a log of this size again and again, each time with a single memmove.
//
// In the field: a large pointer-free buffer (a log, a cache, a snapshot) that is trimmed or grown by copying all of it.
// memmove is assembly without a safe point, so a goroutine inside it cannot be preempted. A GC that wants to stop the
// world waits until the copy is done, while every other goroutine is already stopped. At 10 GB/s a buffer of 512 MiB
// stops the world for up to 50 ms, however small the heap to be marked is. A copy is one call, and the goroutine can be
// stopped between two calls. It rests for half as long as the copy took, so that the requests are still answered.
//
// Source and destination overlap, which needs half the memory of two buffers for the same pause.
func TrimLog(bytes uint64) {
	log := make([]byte, bytes+record)
	for i := 0; i < len(log); i += 4096 {
		log[i] = 1
	}
	go func() {
		for {
			begin := time.Now()
			copy(log, log[record:])
			time.Sleep(time.Since(begin) / 2)
		}
	}()
}
