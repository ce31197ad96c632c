package main

import (
	"math"
	"runtime"
	godebug "runtime/debug"
	"runtime/metrics"
	"strconv"
)

// Names in runtime/metrics. The two histograms exist since Go 1.22; Go 1.21 has the former under its older name only.
const (
	liveHeapMetric    = "/gc/heap/live:bytes"
	gcPausesMetric    = "/sched/pauses/total/gc:seconds"
	otherPausesMetric = "/sched/pauses/total/other:seconds"
	oldPausesMetric   = "/gc/pauses:seconds"
)

const (
	liveHeap = iota
	gcPauses
	otherPauses
)

// header leaves room for the length of the body, which is known last.
const (
	header       = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "
	headerLength = len(header) + 10 + 4
)

// truth is what the runtime says of itself at one moment. All its memory is allocated beforehand: reading and rendering
// it allocates nothing.
type truth struct {
	stats      runtime.MemStats
	goroutines int
	samples    [3]metrics.Sample
	text       []byte
}

func newTruth() *truth {
	t := &truth{text: make([]byte, 0, 64<<10)}
	t.samples[liveHeap].Name = liveHeapMetric
	t.samples[gcPauses].Name = gcPausesMetric
	t.samples[otherPauses].Name = otherPausesMetric
	metrics.Read(t.samples[:])
	if t.samples[gcPauses].Value.Kind() == metrics.KindBad {
		t.samples[gcPauses].Name = oldPausesMetric
	}
	t.read() // The first reading allocates the histograms; the later ones use them again.
	t.response()
	return t
}

// read takes the figures such that they belong together:
//
//   - Setting the GC off waits for the end of a cycle that runs, and no cycle begins by itself before it is on again. So
//     PauseTotalNs and NumGC, which are updated at a cycle's end, cover the same pauses as the histogram, which is
//     updated after each of its pauses.
//   - ReadMemStats stops the world. That is counted as an "other" pause, hence the histograms are read after it and
//     contain it.
//   - A cycle may begin nevertheless: one that was about to, or one by runtime.GC. Setting the GC off again waits for
//     it, its pauses show in the histogram, and everything is read anew.
func (t *truth) read() {
	percent := godebug.SetGCPercent(-1)
	defer godebug.SetGCPercent(percent)
	for {
		godebug.SetGCPercent(-1)
		metrics.Read(t.samples[:])
		before := total(t.samples[gcPauses].Value)
		runtime.ReadMemStats(&t.stats)
		t.goroutines = runtime.NumGoroutine()
		godebug.SetGCPercent(-1)
		metrics.Read(t.samples[:])
		if total(t.samples[gcPauses].Value) == before {
			return
		}
	}
}

// total returns the number of entries of a histogram.
func total(value metrics.Value) uint64 {
	if value.Kind() != metrics.KindFloat64Histogram {
		return 0
	}
	sum := uint64(0)
	for _, count := range value.Float64Histogram().Counts {
		sum += count
	}
	return sum
}

// response renders the figures as an HTTP response.
func (t *truth) response() []byte {
	t.text = append(t.text[:0], header...)
	t.text = t.text[:headerLength]
	t.text = append(t.text, `{"GoVersion":"`...)
	t.text = append(t.text, runtime.Version()...)
	t.text = append(t.text, '"')
	for _, figure := range [...]struct {
		name  string
		value uint64
	}{
		{"PauseTotalNs", t.stats.PauseTotalNs},
		{"NumGC", uint64(t.stats.NumGC)},
		{"NumForcedGC", uint64(t.stats.NumForcedGC)},
		{"TotalAlloc", t.stats.TotalAlloc},
		{"Mallocs", t.stats.Mallocs},
		{"Frees", t.stats.Frees},
		{"NumGoroutine", uint64(t.goroutines)},
		{"HeapAlloc", t.stats.HeapAlloc},
		{"HeapSys", t.stats.HeapSys},
		{"Sys", t.stats.Sys},
		{"LiveHeap", t.samples[liveHeap].Value.Uint64()},
	} {
		t.text = append(t.text, `,"`...)
		t.text = append(t.text, figure.name...)
		t.text = append(t.text, `":`...)
		t.text = strconv.AppendUint(t.text, figure.value, 10)
	}
	t.appendHistogram("GCPauses", t.samples[gcPauses].Value)
	t.appendHistogram("OtherPauses", t.samples[otherPauses].Value)
	t.text = append(t.text, "}\n"...)
	t.setLength(len(t.text) - headerLength)
	return t.text
}

// setLength writes the length of the body, filled up with spaces in front as RFC 9112, section 5 allows.
func (t *truth) setLength(length int) {
	const blank = "          \r\n\r\n"
	copy(t.text[len(header):headerLength], blank)
	for i := headerLength - 5; length > 0; i, length = i-1, length/10 {
		t.text[i] = byte('0' + length%10)
	}
}

// appendHistogram renders a histogram: counts[i] pauses took between bounds[i] and bounds[i+1] seconds. An infinite
// bound is null, and so is a histogram that this Go version does not have.
func (t *truth) appendHistogram(name string, value metrics.Value) {
	t.text = append(t.text, `,"`...)
	t.text = append(t.text, name...)
	t.text = append(t.text, `":`...)
	if value.Kind() != metrics.KindFloat64Histogram {
		t.text = append(t.text, "null"...)
		return
	}
	histogram := value.Float64Histogram()
	t.text = append(t.text, `{"Total":`...)
	t.text = strconv.AppendUint(t.text, total(value), 10)
	t.text = append(t.text, `,"Bounds":[`...)
	for i, bound := range histogram.Buckets {
		t.appendComma(i)
		if math.IsInf(bound, 0) {
			t.text = append(t.text, "null"...)
		} else {
			t.text = strconv.AppendFloat(t.text, bound, 'g', -1, 64)
		}
	}
	t.text = append(t.text, `],"Counts":[`...)
	for i, count := range histogram.Counts {
		t.appendComma(i)
		t.text = strconv.AppendUint(t.text, count, 10)
	}
	t.text = append(t.text, "]}"...)
}

func (t *truth) appendComma(i int) {
	if i > 0 {
		t.text = append(t.text, ',')
	}
}
