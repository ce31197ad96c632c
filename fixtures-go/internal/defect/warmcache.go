package defect

import "sync"

const (
	fewestEntries = 512
	largestEntry  = 1 << 20
)

// WarmCache is not a defect, and a gate must not take it for one. Its working set grows with the first requests and
// stays when it is full, like the caches, pools and connection buffers of a healthy service.
type WarmCache struct {
	entry, count uint64

	mutex    sync.Mutex
	requests uint64
	entries  map[uint64][]byte
}

// NewWarmCache returns a cache of about this many bytes: 512 to 1023 entries, each a power of two in size (above 1 GiB
// more entries, each of 1 MiB). Every request looks up the next key in turn, so the cache is full after exactly as many
// requests as it has entries.
func NewWarmCache(bytes uint64) *WarmCache {
	entry := uint64(1)
	for entry*2*fewestEntries <= bytes && entry < largestEntry {
		entry *= 2
	}
	count := bytes / entry
	return &WarmCache{entry: entry, count: count, entries: make(map[uint64][]byte, count)}
}

// OnRequest is called once for each request.
func (c *WarmCache) OnRequest() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	key := c.requests % c.count
	c.requests++
	if _, hit := c.entries[key]; !hit {
		c.entries[key] = loadPolicyPage(c.entry)
	}
}

// loadPolicyPage stands for fetching the cached data. It writes to every page, so the entry is resident.
//
//go:noinline
func loadPolicyPage(bytes uint64) []byte {
	page := make([]byte, bytes)
	for i := range page {
		page[i] = byte(i)
	}
	return page
}
