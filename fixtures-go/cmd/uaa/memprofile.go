//go:build memprofile

package main

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
)

// memProfileSite is what one place allocated of one size, as far as the runtime sampled it.
type memProfileSite struct {
	Function string
	File     string
	Line     int
	Size     int64 // Bytes of one object.
	Allocs   int64
	Frees    int64
}

// serveMemProfile answers with the runtime's own heap profile by the innermost place that is not the runtime's. Two GC
// cycles go first, so that everything allocated and freed before the request is in it.
//
// It is built with the tag memprofile only: where nothing asks for the profile the linker switches sampling off, as it does
// in most services.
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

// memProfilePlace returns the innermost frame that is not the runtime's, or else the innermost.
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
