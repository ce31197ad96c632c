package main

import (
	"math"
	"runtime"
	"runtime/metrics"
	"strconv"
	"time"
)

// Names in runtime/metrics. Go 1.22 introduced the two histograms; Go 1.21 has only the first, under its older name.
const (
	liveHeapMetric    = "/gc/heap/live:bytes"
	gcPausesMetric    = "/sched/pauses/total/gc:seconds"
	otherPausesMetric = "/sched/pauses/total/other:seconds"
	oldPausesMetric   = "/gc/pauses:seconds"
	gcCPUMetric       = "/cpu/classes/gc/total:cpu-seconds"
	totalCPUMetric    = "/cpu/classes/total:cpu-seconds"
	gcIdleCPUMetric   = "/cpu/classes/gc/mark/idle:cpu-seconds"
	idleCPUMetric     = "/cpu/classes/idle:cpu-seconds"
	heapGoalMetric    = "/gc/heap/goal:bytes"
	heapFreeMetric    = "/memory/classes/heap/free:bytes"
)

const (
	liveHeap = iota
	gcPauses
	otherPauses
	gcCPU
	totalCPU
	gcIdleCPU
	idleCPU
	heapGoal
	heapFree
	metricCount
)

// header leaves room for the length of the body, which is known last.
const (
	header       = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: "
	headerLength = len(header) + 10 + 4
)

// truth contains the runtime's own figures at one moment. All its memory is allocated beforehand, so reading and
// rendering it allocates nothing.
type truth struct {
	stats      runtime.MemStats
	goroutines int
	samples    [metricCount]metrics.Sample
	text       []byte
	extra      uint64 // Pauses beyond two a cycle, as far as known.
	parked     uint64 // Goroutines that /debug/goroutines has parked.
	mapped     uint64 // Bytes that /debug/mmap has forgotten.
}

func newTruth() *truth {
	t := &truth{text: make([]byte, 0, 64<<10)}
	t.samples[liveHeap].Name = liveHeapMetric
	t.samples[gcPauses].Name = gcPausesMetric
	t.samples[otherPauses].Name = otherPausesMetric
	t.samples[gcCPU].Name = gcCPUMetric
	t.samples[totalCPU].Name = totalCPUMetric
	t.samples[gcIdleCPU].Name = gcIdleCPUMetric
	t.samples[idleCPU].Name = idleCPUMetric
	t.samples[heapGoal].Name = heapGoalMetric
	t.samples[heapFree].Name = heapFreeMetric
	metrics.Read(t.samples[:])
	if t.samples[gcPauses].Value.Kind() == metrics.KindBad {
		t.samples[gcPauses].Name = oldPausesMetric
	}
	t.read() // The first reading allocates the histograms; later ones reuse them.
	t.response()
	t.line()
	return t
}

// patience is how long read waits for the end of a GC cycle before it assumes that none is running.
const patience = time.Second

// read reads the figures so that they belong together:
//
//   - PauseTotalNs and NumGC are updated at the end of a GC cycle, the histogram after each of its pauses. They cover the
//     same pauses only while no cycle runs. A cycle has two pauses, and rarely more, when marking turns out not to be
//     done: those are the extra ones. A running cycle has had one pause too many for the cycles counted, so the pauses
//     beyond two a cycle are never fewer than the extra ones, and exactly as many while no cycle runs.
//   - ReadMemStats stops the world. That is counted as an "other" pause, hence the histograms are read after it and
//     contain it. They are read before it too: a pause in between would show.
//
// It does not switch the GC off meanwhile, although that would be simpler. A cycle that ends with the GC off takes the
// heap goal for infinite, so the runtime asks for huge pages for its metadata (Go 1.27, runtime/mgc.go,
// minHeapForMetadataHugePages). This raises the resident set by 2 MiB some time later.
func (t *truth) read() {
	fewest, begin := uint64(math.MaxUint64), time.Now()
	for {
		metrics.Read(t.samples[:])
		before := total(t.samples[gcPauses].Value)
		runtime.ReadMemStats(&t.stats)
		t.goroutines = runtime.NumGoroutine()
		metrics.Read(t.samples[:])
		if after := total(t.samples[gcPauses].Value); after == before {
			extra := after - 2*uint64(t.stats.NumGC)
			fewest = min(fewest, extra)
			if extra < t.extra || time.Since(begin) > patience {
				t.extra = fewest
			}
			if extra == t.extra {
				return
			}
		}
		time.Sleep(time.Millisecond)
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
	t.render(true)
	t.setLength(len(t.text) - headerLength)
	return t.text
}

// line renders the figures as a line of JSON, the histograms without their buckets.
func (t *truth) line() []byte {
	t.text = t.text[:0]
	t.render(false)
	return t.text
}

func (t *truth) render(buckets bool) {
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
		{"HeapInuse", t.stats.HeapInuse},
		{"StackInuse", t.stats.StackInuse},
		{"RuntimeOther", t.stats.StackSys - t.stats.StackInuse + t.stats.MSpanSys + t.stats.MCacheSys +
			t.stats.BuckHashSys + t.stats.GCSys + t.stats.OtherSys},
		{"HeapGoal", t.samples[heapGoal].Value.Uint64()},
		{"HeapFree", t.samples[heapFree].Value.Uint64()},
		{"LiveHeap", t.samples[liveHeap].Value.Uint64()},
		{"Parked", t.parked},
		{"Mapped", t.mapped},
	} {
		t.text = append(t.text, `,"`...)
		t.text = append(t.text, figure.name...)
		t.text = append(t.text, `":`...)
		t.text = strconv.AppendUint(t.text, figure.value, 10)
	}
	t.appendSeconds("GCCPUSeconds", t.samples[gcCPU].Value)
	t.appendSeconds("TotalCPUSeconds", t.samples[totalCPU].Value)
	t.appendSeconds("GCIdleCPUSeconds", t.samples[gcIdleCPU].Value)
	t.appendSeconds("IdleCPUSeconds", t.samples[idleCPU].Value)
	t.appendHistogram("GCPauses", t.samples[gcPauses].Value, buckets)
	t.appendHistogram("OtherPauses", t.samples[otherPauses].Value, buckets)
	t.text = append(t.text, "}\n"...)
}

// setLength writes the length of the body, padded with leading spaces as RFC 9112, section 5 allows.
func (t *truth) setLength(length int) {
	const blank = "          \r\n\r\n"
	copy(t.text[len(header):headerLength], blank)
	for i := headerLength - 5; length > 0; i, length = i-1, length/10 {
		t.text[i] = byte('0' + length%10)
	}
}

// appendSeconds renders a number with all its digits.
func (t *truth) appendSeconds(name string, value metrics.Value) {
	t.text = append(t.text, `,"`...)
	t.text = append(t.text, name...)
	t.text = append(t.text, `":`...)
	t.text = strconv.AppendFloat(t.text, value.Float64(), 'g', -1, 64)
}

// appendHistogram renders a histogram, optionally with its buckets: counts[i] pauses took between bounds[i] and
// bounds[i+1] seconds. An infinite bound is null, and so is a histogram that this Go version does not have.
func (t *truth) appendHistogram(name string, value metrics.Value, buckets bool) {
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
	if !buckets {
		t.text = append(t.text, '}')
		return
	}
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
