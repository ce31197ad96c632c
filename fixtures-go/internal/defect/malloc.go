package defect

// Malloc leaks memory of the C heap.
//
// In the field: a C library called through cgo returns a buffer that the caller must free, and the Go wrapper copies it
// and forgets C.free. The Go heap is flat, pprof shows nothing, RSS climbs.
type Malloc struct {
	perRequest uint64
}

// NewMalloc leaks bytes of the C heap in each request. It fails if the executable was built without cgo or without the
// tag cgoleak.
func NewMalloc(bytes uint64) (*Malloc, error) {
	if err := mallocAvailable(); err != nil {
		return nil, err
	}
	return &Malloc{perRequest: bytes}, nil
}

// OnRequest is called once for each request.
func (m *Malloc) OnRequest() {
	mallocAndForget(m.perRequest)
}

// MallocAndForget allocates bytes of the C heap, writes to them and forgets them. It fails like NewMalloc.
func MallocAndForget(bytes uint64) error {
	if err := mallocAvailable(); err != nil {
		return err
	}
	mallocAndForget(bytes)
	return nil
}
