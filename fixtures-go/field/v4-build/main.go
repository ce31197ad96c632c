// Command v4-build is a plain service. What matters is how it is built. With GOAMD64=v4 the runtime looks at its very
// start whether the processor has AVX-512, and if not it ends with one line on standard error. With GOAMD64=v3 it runs
// nearly anywhere.
//
// u-root/u-root#3316 is an init that ends so in QEMU.
package main

import (
	"flag"
	"fmt"
	"log"
	"math/bits"
	"net/http"
	"sync/atomic"

	"memgate.dev/fixtures/internal/chores"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:19112", "address")
	flag.Parse()
	var state atomic.Uint64
	state.Store(0x9e3779b97f4a7c15)
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		x := state.Add(0x9e3779b97f4a7c15)
		page := make([]uint64, 512)
		set := 0
		for i := range page { // What the compiler makes of this differs between v1 and v3.
			page[i] = bits.RotateLeft64(x, i) &^ uint64(i)
			set += bits.OnesCount64(page[i]) + bits.TrailingZeros64(page[i]|1)
		}
		fmt.Fprintln(w, set, page[len(page)-1], chores.Do())
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
