//go:build memprofile

package main

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
)

// memProfileSite is what one place allocated with one object size, as far as the runtime sampled it.
type memProfileSite struct {
	Function string
	File     string
	Line     int
	Size     int64 // Size of one object in bytes.
	Allocs   int64
	Frees    int64
}

// serveMemProfile answers with the runtime's own heap profile by the innermost place outside the runtime. It runs two
// GC cycles first, so that the profile contains everything allocated and freed before the request.
//
// It is built only with the tag memprofile. If nothing uses the profile, the linker switches sampling off, as in most
// services.
func serveMemProfile(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r, http.MethodGet) {
		return
	}
	runtime.GC()
	runtime.GC()
	count, _ := runtime.MemProfile(nil, true)
	for {
		records := make([]runtime.MemProfileRecord, count+100)
		var all bool
		if count, all = runtime.MemProfile(records, true); all {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(memProfileSites(records[:count]))
			return
		}
	}
}

func memProfileSites(records []runtime.MemProfileRecord) []memProfileSite {
	sites := make([]memProfileSite, 0, len(records))
	for i := range records {
		record := &records[i]
		if record.AllocObjects == 0 {
			continue
		}
		place := memProfilePlace(record.Stack())
		sites = append(sites, memProfileSite{
			Function: place.Function,
			File:     place.File,
			Line:     place.Line,
			Size:     record.AllocBytes / record.AllocObjects,
			Allocs:   record.AllocObjects,
			Frees:    record.FreeObjects,
		})
	}
	return sites
}

// memProfilePlace returns the innermost frame outside the runtime, or the innermost frame if there is none.
func memProfilePlace(stack []uintptr) runtime.Frame {
	frames := runtime.CallersFrames(stack)
	first, more := frames.Next()
	for frame := first; ; frame, more = frames.Next() {
		if !strings.HasPrefix(frame.Function, "runtime.") && !strings.HasPrefix(frame.Function, "internal/runtime/") {
			return frame
		}
		if !more {
			return first
		}
	}
}
