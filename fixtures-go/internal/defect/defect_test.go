package defect

import (
	"bytes"
	"maps"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"
	"time"

	"memgate.dev/fixtures/internal/session"
)

func TestOwedLosesNothing(t *testing.T) {
	var account owed
	var paid uint64
	for i := 0; i < 1000; i++ {
		paid += account.charge(37, 16)
	}
	if want := uint64(37 * 1000 / 16 * 16); paid != want {
		t.Errorf("paid %d of 37000 in pieces of 16, want %d", paid, want)
	}
}

func TestStarveExpiryLeaksAuditedSessionsOnly(t *testing.T) {
	store := session.NewStore(time.Second, 1)
	stuck := StarveExpiry(store)
	now := time.Unix(1_700_000_000, 0)
	store.Create(now, true)
	<-stuck
	for i := 0; i < 99; i++ {
		store.Create(now, i%2 == 0) // Must not block.
	}
	if removed := store.Expire(now.Add(time.Hour)); removed != 49 {
		t.Errorf("removed %d sessions, want the 49 that are not under audit", removed)
	}
	if store.Len() != 51 {
		t.Errorf("%d sessions left, want the 51 under audit", store.Len())
	}
}

func TestGoroutinesLeaksOneInQ(t *testing.T) {
	before := runtime.NumGoroutine()
	leak := NewGoroutines(50)
	for i := 0; i < 499; i++ {
		leak.OnRequest()
	}
	if got := runtime.NumGoroutine() - before; got != 9 {
		t.Errorf("499 requests leaked %d goroutines, want 9", got)
	}
}

func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

func TestAllocAddsExactlyItsShare(t *testing.T) {
	for _, test := range []struct {
		percent float64
		healthy uint64
		want    uint64 // For 1000 requests.
	}{
		{20, 20_000, 4_000_000}, {1, 20_000, 200_000}, {0.5, 1000, 5000 / 16 * 16}, {400, 20_000, 80_000_000},
	} {
		leak := NewAlloc(test.percent)
		// The runtime and other tests' goroutines allocate a little from time to time, and only ever add to it.
		got := uint64(math.MaxUint64)
		for attempt := 0; attempt < 5; attempt++ {
			before := allocated()
			for i := 0; i < 1000; i++ {
				leak.OnRequest(test.healthy)
			}
			got = min(got, allocated()-before)
		}
		if got < test.want || got > test.want+16<<10 {
			t.Errorf("%v %% of %d bytes: allocated %d in 1000 requests, want %d", test.percent, test.healthy, got, test.want)
		}
	}
}

// resident returns the resident set in bytes, after the Go heap has returned unused memory.
func resident(t *testing.T) uint64 {
	t.Helper()
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseUint(string(bytes.Fields(statm)[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * uint64(os.Getpagesize())
}

func TestMmapLeaksResidentMemory(t *testing.T) {
	leak := NewMmap(4096)
	before, heap := resident(t), allocated()
	for i := 0; i < 16_000; i++ {
		leak.OnRequest()
	}
	grown := resident(t) - before
	if want := uint64(16_000 * 4096); grown < want*9/10 || grown > want*11/10 {
		t.Errorf("resident memory grew by %d, want about %d", grown, want)
	}
	if onHeap := allocated() - heap; onHeap > 1<<20 {
		t.Errorf("the leak allocated %d bytes on the Go heap", onHeap)
	}
}

func TestMallocLeaksOrSaysWhyNot(t *testing.T) {
	leak, err := NewMalloc(4096)
	if err != nil {
		if MallocAndForget(1) == nil {
			t.Error("MallocAndForget must fail as NewMalloc does")
		}
		return
	}
	before := resident(t)
	for i := 0; i < 8_000; i++ {
		leak.OnRequest()
	}
	if err := MallocAndForget(32 << 20); err != nil {
		t.Fatal(err)
	}
	grown := resident(t) - before
	if want := uint64(8_000*4096 + 32<<20); grown < want*9/10 || grown > want*11/10 {
		t.Errorf("resident memory grew by %d, want about %d", grown, want)
	}
}

func TestForceGCRunsTheGC(t *testing.T) {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	ForceGC(time.Millisecond)
	for goal := stats.NumForcedGC + 3; stats.NumForcedGC < goal; runtime.ReadMemStats(&stats) {
		time.Sleep(time.Millisecond)
	}
}

func TestTheWorldStopsBetweenCopiesOfALog(t *testing.T) {
	before := runtime.NumGoroutine()
	NewLog(time.Millisecond).Trim()
	for i := 0; i < 5; i++ {
		runtime.GC() // Never returns if the copying cannot be stopped.
	}
	if got := runtime.NumGoroutine() - before; got != 1 {
		t.Errorf("%d goroutines copy, want 1", got)
	}
}

func TestWarmCacheFillsThenStays(t *testing.T) {
	for _, size := range []uint64{1, 700, 5 << 20, 8 << 20, 100 << 20} {
		cache := NewWarmCache(size)
		held := func() (total uint64) {
			for _, entry := range cache.entries {
				total += uint64(len(entry))
			}
			return total
		}
		for i := 0; i < 1024; i++ {
			cache.OnRequest()
		}
		full := held()
		if full > size || full < size-size/fewestEntries {
			t.Errorf("a cache of %d holds %d bytes", size, full)
		}
		// The entries themselves are compared: what the process allocates is also other tests' goroutines'.
		pages := func() map[uint64]*byte {
			pages := make(map[uint64]*byte, len(cache.entries))
			for key, entry := range cache.entries {
				pages[key] = &entry[0]
			}
			return pages
		}
		before := pages()
		for i := 0; i < 3000; i++ {
			cache.OnRequest()
		}
		if !maps.Equal(before, pages()) {
			t.Errorf("a cache of %d has not come to rest after 1024 requests", size)
		}
	}
}

func TestWarmCacheIsSafeForConcurrentUse(t *testing.T) {
	cache := NewWarmCache(1 << 20)
	var workers sync.WaitGroup
	for w := 0; w < 4; w++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for i := 0; i < 500; i++ {
				cache.OnRequest()
			}
		}()
	}
	workers.Wait()
	if got := uint64(len(cache.entries)); got != cache.count {
		t.Errorf("%d entries after 2000 requests, want %d", got, cache.count)
	}
}
