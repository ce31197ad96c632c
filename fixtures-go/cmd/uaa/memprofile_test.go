//go:build memprofile

package main

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

func TestMemProfileHasEveryObjectOfAKnownPlace(t *testing.T) {
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	defer func() { runtime.MemProfileRate = rate }()
	address := startService(t, "-debug-memgate")
	post(t, address, "/debug/alloc?n=1000&size=9472", 200)
	response, err := http.Get("http://" + address + "/debug/memprofile")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var sites []memProfileSite
	if err := json.NewDecoder(response.Body).Decode(&sites); err != nil {
		t.Fatal(err)
	}
	for _, site := range sites {
		known := strings.HasSuffix(site.Function, ".allocateKnownSize") && site.Size == 9472
		if known && site.Allocs == 1000 && site.Frees == 999 {
			return
		}
	}
	t.Errorf("1000 objects of 9472 bytes of allocateKnownSize, all but one freed, are not among %d places", len(sites))
}
