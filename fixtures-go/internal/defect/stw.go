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

const (
	// record is how far a log is moved. It is a multiple of every vector size, so the copy is as fast as the
	// machine allows.
	record = 64
	// sample is the size of a log whose copy tells how fast the machine is. It is larger than most caches.
	sample = 128 << 20
	// largest is the size of the largest log.
	largest = 1536 << 20
)

// Log is moved again and again, each time with a single memmove.
//
// In the field: a large pointer-free buffer (a log, a cache, a snapshot) that is trimmed or grown by copying all of it.
// memmove is assembly without a safe point, so a goroutine inside it cannot be preempted. A GC that wants to stop the
// world waits until the copy is done, while every other goroutine is already stopped. At 10 GB/s a buffer of 512 MiB
// stops the world for up to 50 ms, however small the heap to be marked is. A copy is one call, and the goroutine can be
// stopped between two calls.
//
// Source and destination overlap, which needs half the memory of two buffers for the same pause.
type Log []byte

// NewLog returns a log that is as large as it takes for one copy to last this long on this machine, up to 1.5 GiB.
func NewLog(pause time.Duration) Log {
	sampled := newLog(sample)
	fastest := sampled.trim()
	for i := 0; i < 4; i++ {
		fastest = min(fastest, sampled.trim())
	}
	return newLog(int(min(float64(sample)*float64(pause)/float64(fastest), largest)))
}

// newLog returns a log of this size, and writes to each of its pages.
func newLog(size int) Log {
	log := make(Log, size+record)
	for i := 0; i < len(log); i += 4096 {
		log[i] = 1
	}
	return log
}

// Trim starts a goroutine that moves the log for ever. It rests for half as long as a copy took, so that the requests are
// still answered.
func (l Log) Trim() {
	go func() {
		for {
			time.Sleep(l.trim() / 2)
		}
	}()
}

// trim moves the log, and returns how long that took.
func (l Log) trim() time.Duration {
	begin := time.Now()
	copy(l, l[record:])
	return time.Since(begin)
}
