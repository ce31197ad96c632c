// Command self-client is healthy. A request makes it ask itself for two parts, over HTTP, as gateways and services with
// a health check of their own do. It keeps up to four connections to itself, which stay open when the load ends and
// close after a minute and a half. Each is three goroutines: two of the client and one of the server.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"memgate.dev/fixtures/internal/chores"
)

// part is one answer of the service to itself.
func part(client *http.Client, url string) (int64, error) {
	answer, err := client.Get(url)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	return io.Copy(io.Discard, answer.Body)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19124", "address")
	flag.Parse()
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 4,
		MaxConnsPerHost:     4,
		IdleConnTimeout:     90 * time.Second,
	}}
	url := "http://" + *listen + "/part"
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/part", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, chores.Do()) })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		length := int64(0)
		for range [2]struct{}{} {
			n, err := part(client, url)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			length += n
		}
		fmt.Fprintln(w, length)
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
