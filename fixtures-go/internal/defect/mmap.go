package defect

import (
	"fmt"
	"os"
	"syscall"
)

// mappingSize is the size of one leaked mapping, a multiple of every page size that Go supports.
const mappingSize = 64 << 10

// Mmap leaks memory that it maps itself, outside the Go heap and malloc.
//
// In the field: a driver of a device or of an embedded database maps a ring or a segment for a batch of requests, and
// one error path forgets the munmap. HeapSys stays small, pprof is empty, RSS climbs.
type Mmap struct {
	perRequest uint64
	owed       owed
}

// NewMmap leaks the given bytes per request, in mappings of 64 KiB: one mapping every few requests.
func NewMmap(bytes uint64) *Mmap {
	return &Mmap{perRequest: bytes}
}

// OnRequest is called once for each request.
func (m *Mmap) OnRequest() {
	for due := m.owed.charge(m.perRequest, mappingSize); due > 0; due -= mappingSize {
		if err := MapAndForget(mappingSize); err != nil {
			fmt.Fprintln(os.Stderr, "uaa:", err)
		}
	}
}

// MapAndForget maps bytes, rounded up to whole pages, writes to every page and forgets the mapping.
func MapAndForget(bytes uint64) error {
	const access, kind = syscall.PROT_READ | syscall.PROT_WRITE, syscall.MAP_ANON | syscall.MAP_PRIVATE
	page := uint64(os.Getpagesize())
	segment, err := syscall.Mmap(-1, 0, int((bytes+page-1)/page*page), access, kind)
	if err != nil {
		return fmt.Errorf("cannot map %d bytes: %w", bytes, err)
	}
	for i := 0; i < len(segment); i += os.Getpagesize() {
		segment[i] = 1
	}
	return nil
}
