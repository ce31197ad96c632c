// Command large-heap is healthy. It loads 400 MiB of documents before it serves, and they stay. The GC's goal is then
// about twice as much, and each request makes 20 KiB of garbage. So the process grows for a minute to a goal that it
// was given, almost without a GC cycle.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"runtime"
	"strings"
)

// load makes documents of 1 KiB.
func load(megabytes int) [][]byte {
	documents := make([][]byte, megabytes<<10)
	for i := range documents {
		documents[i] = make([]byte, 1<<10)
		for at := range documents[i] {
			documents[i][at] = byte(i + at)
		}
	}
	return documents
}

// render makes some 20 KiB of garbage, as a template engine would.
func render(rows int) string {
	var page strings.Builder
	for i := 0; i < rows; i++ {
		fmt.Fprintf(&page, "<tr><td>%d</td><td>%s</td></tr>\n", i, strings.Repeat("x", i%16))
	}
	return page.String()
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19121", "address")
	megabytes := flag.Int("live", 400, "MiB that live")
	flag.Parse()
	documents := load(*megabytes)
	runtime.GC() // What loading left behind goes, and the way to the goal is the same in every run.
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, len(documents), len(render(128)))
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
