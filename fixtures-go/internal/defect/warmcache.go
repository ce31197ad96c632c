package defect

import "sync"

const (
	fewestEntries = 512
	largestEntry  = 1 << 20
)

// WarmCache is no defect: it is what a gate must not take for one. Its working set grows with the first requests and
// stays once it is full, as caches, pools and connection buffers of a healthy service do.
type WarmCache struct {
	entry, count uint64

	mutex    sync.Mutex
	requests uint64
	entries  map[uint64][]byte
}

// NewWarmCache returns a cache of about so many bytes: 512 to 1023 entries of a power of two each (more and of 1 MiB
// above 1 GiB). As every request looks up the next key in turn, it is full after as many requests as it has entries, to
// the request.
func NewWarmCache(bytes uint64) *WarmCache {
	entry := uint64(1)
	for entry*2*fewestEntries <= bytes && entry < largestEntry {
		entry *= 2
	}
	count := bytes / entry
	return &WarmCache{entry: entry, count: count, entries: make(map[uint64][]byte, count)}
}

// OnRequest is called once a request.
func (c *WarmCache) OnRequest() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	key := c.requests % c.count
	c.requests++
	if _, hit := c.entries[key]; !hit {
		c.entries[key] = loadPolicyPage(c.entry)
	}
}

// loadPolicyPage stands for the fetching of what is cached; it writes to every page, so that the entry is resident.
//
//go:noinline
func loadPolicyPage(bytes uint64) []byte {
	page := make([]byte, bytes)
	for i := range page {
		page[i] = byte(i)
	}
	return page
}
