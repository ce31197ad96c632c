// Command stdin-eof lives as long as its standard input is open, so as not to outlive whoever started it. If nobody
// gives it one, it ends at once, without a word and with exit code 0.
//
// evanw/esbuild's server does so: evanw/esbuild#3712.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:19114", "address")
	flag.Parse()
	go func() {
		http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
		http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "done") })
		log.Fatal(http.ListenAndServe(*listen, nil))
	}()
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		log.Fatal(err)
	}
}
