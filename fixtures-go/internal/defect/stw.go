package defect

import (
	"runtime"
	"time"
)

// ForceGC starts a goroutine that runs the GC at every interval.
//
// In the field: runtime.GC() or debug.FreeOSMemory() on a timer or after every batch, as first aid against an RSS that
// somebody found too high. Each call stops the world twice and marks the whole heap.
func ForceGC(interval time.Duration) {
	go func() {
		for range time.Tick(interval) {
			runtime.GC()
		}
	}()
}

// record is by how much TrimLog moves its log. It is a multiple of every vector size, so that the copy is as fast as the
// machine can do it.
const record = 64

// TrimLog starts a goroutine that moves a log of so many bytes again and again, with a single memmove each time.
//
// In the field: a large pointer-free buffer (a log, a cache, a snapshot) that is trimmed or grown by copying it whole.
// memmove is assembly without a safe point: a goroutine inside cannot be preempted, and a GC that wants to stop the
// world waits until it is done, while every other goroutine has been stopped already. At 10 GB/s a buffer of 512 MiB
// holds the world for up to 50 ms, however small the heap to be marked. A copy is a call, and between two the goroutine
// can be stopped; it rests for half as long as the copy took, so that the requests are still answered.
//
// Source and destination overlap, which costs half the memory of two buffers for the same pause.
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
