package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"sort"
	"strconv"
	"time"
)

// histogram is a histogram of pauses, see cmd/uaa/truth.go.
type histogram struct {
	Total  uint64
	Bounds []*float64
	Counts []uint64
}

// sample contains the figures of the service and of the kernel at one time.
type sample struct {
	at                                            time.Time
	resident                                      float64
	PauseTotalNs, NumGC, TotalAlloc, NumGoroutine float64
	Mallocs, HeapSys, LiveHeap                    float64
	GCPauses                                      *histogram
}

// observe takes a sample every half second.
func observe(base string, pid int, length time.Duration) ([]sample, error) {
	var samples []sample
	for end := time.Now().Add(length); ; time.Sleep(500 * time.Millisecond) {
		next, err := take(base, pid)
		if err != nil {
			return nil, err
		}
		samples = append(samples, next)
		if next.at.After(end) {
			return samples, nil
		}
	}
}

func take(base string, pid int) (sample, error) {
	var s sample
	response, err := http.Get(base + "/debug/runtime")
	if err != nil {
		return s, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
		return s, err
	}
	s.at = time.Now()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return s, err
	}
	pages, err := strconv.ParseFloat(string(bytes.Fields(statm)[1]), 64)
	s.resident = pages * float64(os.Getpagesize())
	return s, err
}

// slope is the median of the slopes between all pairs of samples (Theil and Sen), per minute.
func slope(samples []sample, figure func(*sample) float64) float64 {
	var slopes []float64
	for i := range samples {
		for j := i + 1; j < len(samples); j++ {
			minutes := samples[j].at.Sub(samples[i].at).Minutes()
			slopes = append(slopes, (figure(&samples[j])-figure(&samples[i]))/minutes)
		}
	}
	sort.Float64s(slopes)
	return slopes[len(slopes)/2]
}

// pauseQuantile returns the upper bound, in ms, of the bucket that contains the quantile of the pauses between two
// samples.
func pauseQuantile(first, last *sample, q float64) float64 {
	if first.GCPauses == nil || last.GCPauses == nil {
		return math.NaN()
	}
	left := uint64(math.Ceil(q * float64(last.GCPauses.Total-first.GCPauses.Total)))
	for i, count := range last.GCPauses.Counts {
		count -= first.GCPauses.Counts[i]
		if bound := last.GCPauses.Bounds[i+1]; count >= left && bound != nil {
			return *bound * 1e3
		}
		left -= min(count, left)
	}
	return math.Inf(1)
}

func print(samples []sample, load *load) {
	first, last := &samples[0], &samples[len(samples)-1]
	seconds := last.at.Sub(first.at).Seconds()
	requests := float64(len(load.latencies))
	bytes := last.TotalAlloc - first.TotalAlloc
	const mb = 1e6
	fmt.Printf("requests      %.0f in %.1f s, %d failed, p50 %v, p99 %v\n", requests, seconds, load.failures,
		load.quantile(0.5).Round(time.Microsecond), load.quantile(0.99).Round(time.Microsecond))
	fmt.Printf("allocated     %.2f MB/s, %.0f bytes and %.1f objects a request\n", bytes/seconds/mb, bytes/requests,
		(last.Mallocs-first.Mallocs)/requests)
	fmt.Printf("GC            %.2f cycles/s, stopped %.3f %%\n", (last.NumGC-first.NumGC)/seconds,
		(last.PauseTotalNs-first.PauseTotalNs)/seconds/1e9*100)
	if last.GCPauses != nil {
		fmt.Printf("GC pauses     %d, p50 %.3f, p90 %.3f, p99 %.3f, max %.3f ms (upper bounds)\n",
			last.GCPauses.Total-first.GCPauses.Total, pauseQuantile(first, last, 0.5), pauseQuantile(first, last, 0.9),
			pauseQuantile(first, last, 0.99), pauseQuantile(first, last, 1))
	}
	fmt.Printf("live heap     %.2f to %.2f MB, %+.2f MB/min\n", first.LiveHeap/mb, last.LiveHeap/mb,
		slope(samples, func(s *sample) float64 { return s.LiveHeap })/mb)
	fmt.Printf("resident      %.1f to %.1f MB, %+.2f MB/min\n", first.resident/mb, last.resident/mb,
		slope(samples, func(s *sample) float64 { return s.resident })/mb)
	fmt.Printf("beyond heap   %+.2f MB/min (resident - HeapSys)\n",
		slope(samples, func(s *sample) float64 { return s.resident - s.HeapSys })/mb)
	fmt.Printf("goroutines    %.0f to %.0f\n", first.NumGoroutine, last.NumGoroutine)
}
