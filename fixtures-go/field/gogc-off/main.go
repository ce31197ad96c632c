// Command gogc-off is healthy. It runs with the usual setting of batch jobs: GOGC=off with a GOMEMLIMIT. There is no
// collection until the process has grown to the limit, and then there are some. Until then the resident set grows by
// every byte that is allocated.
//
// golang/go#56764 replaced a ballast by this setting; golang/go#40448 reports the growth up to the first collection as
// a leak.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"runtime/debug"
	"strings"
)

// render makes some 20 KiB of garbage, as a template engine would.
func render(rows int) string {
	var page strings.Builder
	for i := 0; i < rows; i++ {
		fmt.Fprintf(&page, "<tr><td>%d</td><td>%s</td></tr>\n", i, strings.Repeat("x", i%16))
	}
	return page.String()
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19106", "address")
	flag.Parse()
	log.Printf("GOMEMLIMIT is %d MiB, GOGC was %d", debug.SetMemoryLimit(-1)>>20, debug.SetGCPercent(-1))
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, len(render(128))) })
	log.Fatal(http.ListenAndServe(*listen, nil))
}
