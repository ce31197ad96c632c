package main

import (
	"memgate.dev/fixtures/internal/defect"
	"memgate.dev/fixtures/internal/fraction"
	"memgate.dev/fixtures/internal/session"
)

// The bytes that a request of each kind allocates in a healthy service, including what net/http does for it. They are
// measured on Go 1.27 and checked by TestHealthyBytesPerRequest. -alloc-more adds its share of this.
const (
	loginBytes  = 22_460
	verifyBytes = 19_400
	logoutBytes = 19_070
)

// defects are the planted defects that the flags ask for. Nil ones are off.
type defects struct {
	audited    *fraction.Chooser
	goroutines *defect.Goroutines
	alloc      *defect.Alloc
	mmap       *defect.Mmap
	malloc     *defect.Malloc
	log        defect.Log
	warmCache  *defect.WarmCache
}

func newDefects(o *options, store *session.Store) (*defects, error) {
	var d defects
	var err error
	if d.audited, err = fraction.New(o.leakSessions); err != nil {
		return nil, err
	}
	if o.leakMalloc > 0 {
		if d.malloc, err = defect.NewMalloc(uint64(o.leakMalloc)); err != nil {
			return nil, err
		}
	}
	if o.leakGoroutines > 0 {
		d.goroutines = defect.NewGoroutines(o.leakGoroutines)
	}
	if o.allocMore > 0 {
		d.alloc = defect.NewAlloc(o.allocMore)
	}
	if o.leakMmap > 0 {
		d.mmap = defect.NewMmap(uint64(o.leakMmap))
	}
	if o.stwCopy > 0 {
		d.log = defect.NewLog(o.stwCopy)
	}
	if o.warmCache > 0 {
		d.warmCache = defect.NewWarmCache(uint64(o.warmCache))
	}
	return &d, nil
}

// start starts the defects that run beside the requests. The channel is closed when the expiry loop starves; it is nil
// if no sessions are to leak.
func (d *defects) start(o *options, store *session.Store) (starved <-chan struct{}) {
	if o.leakSessions > 0 {
		starved = defect.StarveExpiry(store)
	}
	if o.stwEvery > 0 {
		defect.ForceGC(o.stwEvery)
	}
	if d.log != nil {
		d.log.Trim()
	}
	return starved
}

// auditNext reports whether the next login is of a user under audit. It never is, unless sessions are to leak.
func (d *defects) auditNext() bool {
	return d.audited.Next()
}

// onRequest lets every defect act on a request.
func (d *defects) onRequest(healthyBytes uint64) {
	if d.goroutines != nil {
		d.goroutines.OnRequest()
	}
	if d.alloc != nil {
		d.alloc.OnRequest(healthyBytes)
	}
	if d.mmap != nil {
		d.mmap.OnRequest()
	}
	if d.malloc != nil {
		d.malloc.OnRequest()
	}
	if d.warmCache != nil {
		d.warmCache.OnRequest()
	}
}
