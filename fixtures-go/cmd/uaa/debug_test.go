package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// figures is the answer of /debug/runtime.
type figures struct {
	GoVersion                                       string
	PauseTotalNs, NumGC, NumForcedGC                uint64
	TotalAlloc, Mallocs, Frees                      uint64
	NumGoroutine, HeapAlloc, HeapSys, Sys, LiveHeap uint64
	Parked, Mapped                                  uint64
	GCPauses, OtherPauses                           *struct {
		Total  uint64
		Bounds []*float64
		Counts []uint64
	}
}

// truthOf reads /debug/runtime with a client that is independent of this service.
func truthOf(t *testing.T, address string) (got figures) {
	t.Helper()
	response, err := http.Get("http://" + address + "/debug/runtime")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("status %d, %v", response.StatusCode, err)
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return got
}

func post(t *testing.T, address, path string, want int) {
	t.Helper()
	response, err := http.Post("http://"+address+path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != want {
		t.Errorf("%s: status %d, want %d", path, response.StatusCode, want)
	}
}

func TestTruthHoldsTogether(t *testing.T) {
	address := startService(t, "-debug-memgate")
	post(t, address, "/debug/gc?n=3", 200)
	before := truthOf(t, address)
	post(t, address, "/debug/gc?n=5", 200)
	after := truthOf(t, address)
	if after.NumForcedGC-before.NumForcedGC != 5 || after.NumGC < before.NumGC+5 {
		t.Errorf("from %d to %d cycles, %d to %d forced, want 5 more", before.NumGC, after.NumGC, before.NumForcedGC, after.NumForcedGC)
	}
	if after.PauseTotalNs <= before.PauseTotalNs || after.GoVersion != runtime.Version() || after.LiveHeap == 0 {
		t.Errorf("implausible: %+v", after)
	}
	for name, histogram := range map[string]struct{ bounds, counts int }{
		"GCPauses":    {len(after.GCPauses.Bounds), len(after.GCPauses.Counts)},
		"OtherPauses": {len(after.OtherPauses.Bounds), len(after.OtherPauses.Counts)},
	} {
		if histogram.bounds != histogram.counts+1 {
			t.Errorf("%s: %d bounds for %d counts", name, histogram.bounds, histogram.counts)
		}
	}
	// A cycle stops the world twice, and sometimes once more if marking was not done yet.
	cycles, pauses := after.NumGC-before.NumGC, after.GCPauses.Total-before.GCPauses.Total
	if pauses < 2*cycles || pauses > 3*cycles {
		t.Errorf("%d pauses in %d cycles", pauses, cycles)
	}
	// There is exactly one ReadMemStats between two answers, unless it had to be repeated.
	if after.OtherPauses.Total <= before.OtherPauses.Total {
		t.Error("the reading itself must show as another pause")
	}
}

// TestPausesAgreeWhileTheGCRuns compares the sum of the pauses in MemStats with the bounds of the buckets that the same
// pauses fell into, from one reading to the next, while cycles run as fast as possible.
func TestPausesAgreeWhileTheGCRuns(t *testing.T) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
				runtime.GC()
			}
		}
	}()
	defer func() { close(done); <-ended }()
	subject, last := newTruth(), figures{}
	for i := 0; i < 50; i++ {
		subject.read()
		_, body, _ := strings.Cut(string(subject.response()), "\r\n\r\n")
		var now figures
		if err := json.Unmarshal([]byte(body), &now); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			least, most := pausesBetween(&last, &now)
			if sum := float64(now.PauseTotalNs-last.PauseTotalNs) / 1e9; sum < least*0.999 || sum > most*1.001 {
				t.Errorf("%d cycles paused for %v s, but their buckets say %v to %v s", now.NumGC-last.NumGC, sum, least, most)
			}
		}
		last = now
	}
}

// pausesBetween returns the least and the greatest sum of the GC pauses between two readings, in seconds.
func pausesBetween(last, now *figures) (least, most float64) {
	for i, count := range now.GCPauses.Counts {
		if new := float64(count - last.GCPauses.Counts[i]); new > 0 {
			least += new * *now.GCPauses.Bounds[i]
			most += new * *now.GCPauses.Bounds[i+1]
		}
	}
	return least, most
}

func TestTruthAllocatesNothing(t *testing.T) {
	subject := newTruth()
	if allocations := testing.AllocsPerRun(20, func() {
		subject.read()
		subject.response()
		subject.line()
	}); allocations != 0 {
		t.Errorf("reading the truth allocates %v objects", allocations)
	}
}

// TestTruthsAreWritten compares the log with the events: one line for each request, and one at the end.
func TestTruthsAreWritten(t *testing.T) {
	var log bytes.Buffer
	subject := newDebug(&log)
	if err := errors.Join(subject.mmap(65536), subject.goroutines(3), subject.tell()); err != nil {
		t.Fatal(err)
	}
	defer subject.goroutines(0)
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	subject.awaitEnd(signals)
	lines, told := json.NewDecoder(&log), [2]figures{}
	for i := range told {
		if err := lines.Decode(&told[i]); err != nil {
			t.Fatal(err)
		}
		if told[i].Parked != 3 || told[i].Mapped != 65536 || told[i].OtherPauses.Counts != nil {
			t.Errorf("line %d: %+v", i, told[i])
		}
	}
	if lines.More() || told[1].OtherPauses.Total <= told[0].OtherPauses.Total {
		t.Errorf("not two readings: %+v", told)
	}
}

// TestTruthIsStillTrueAfterTheAnswer compares the answer with the runtime's figures after the connection has ended.
func TestTruthIsStillTrueAfterTheAnswer(t *testing.T) {
	address := startService(t, "-debug-memgate")
	text := request("GET", "/debug/runtime", "")
	exact := 0
	const attempts = 10
	for i := 0; i < attempts; i++ {
		client := dial(t, address)
		_, body, _ := strings.Cut(string(client.do(text)), "\r\n\r\n")
		client.conn.Read(client.text[:]) // Waits until the service has closed the connection.
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		var told figures
		if err := json.Unmarshal([]byte(body), &told); err != nil {
			t.Fatal(err)
		}
		// The test's own string is one object.
		if now.Mallocs-told.Mallocs <= 2 {
			exact++
		} else {
			t.Logf("%d objects of %d bytes after the reading", now.Mallocs-told.Mallocs, now.TotalAlloc-told.TotalAlloc)
		}
	}
	if exact < attempts/2 {
		t.Errorf("the figures held after %d of %d answers only", exact, attempts)
	}
}

func TestKnownCauses(t *testing.T) {
	address := startService(t, "-debug-memgate")
	post(t, address, "/debug/goroutines?n=30", 200)
	post(t, address, "/debug/goroutines?n=40", 200)
	if parked := startedBy("(*debug).goroutines"); parked != 70 {
		t.Errorf("%d goroutines parked, want 70", parked)
	}
	if told := truthOf(t, address).NumGoroutine; told < 70 {
		t.Errorf("the runtime is said to have %d goroutines while 70 are parked", told)
	}
	post(t, address, "/debug/goroutines?n=0", 200)
	// The runtime lists one a moment longer, which on a busy machine may be long.
	deadline := time.Now().Add(time.Minute)
	for parked := startedBy("(*debug).goroutines"); parked != 0; parked = startedBy("(*debug).goroutines") {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines still parked", parked)
		}
		time.Sleep(time.Millisecond)
	}
	before := truthOf(t, address).TotalAlloc
	post(t, address, "/debug/alloc?n=1000&size=4096", 200)
	more := truthOf(t, address).TotalAlloc - before
	if more < 4_096_000 || more > 4_096_000+200_000 {
		t.Errorf("1000 objects of 4096 bytes show as %d", more)
	}
	post(t, address, "/debug/mmap?bytes=65536", 200)
	malloc := 501
	if mallocBuilt {
		malloc = 200
	}
	post(t, address, "/debug/malloc?bytes=65536", malloc)
}

func TestKnownCausesRefuseWhatIsNoNumber(t *testing.T) {
	address := startService(t, "-debug-memgate")
	for _, path := range []string{"/debug/gc", "/debug/gc?n=-1", "/debug/alloc?n=1", "/debug/mmap?bytes=1KiB"} {
		post(t, address, path, 400)
	}
	post(t, address, "/debug/runtime", 405)
	if response, err := http.Get("http://" + address + "/debug/gc?n=1"); err != nil || response.StatusCode != 405 {
		t.Errorf("GET /debug/gc: %v, %v", response, err)
	}
}
