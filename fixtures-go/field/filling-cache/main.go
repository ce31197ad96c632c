// Command filling-cache is healthy. Its cache has a place for each of 900 keys, the first request for a key fills it,
// and it stays: 16 MiB, of which nothing is added after the first three seconds of the load.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"sync"

	"memgate.dev/fixtures/internal/chores"
)

const (
	keys = 900
	size = 18 << 10
)

type cache struct {
	mutex    sync.Mutex
	requests int
	values   [keys][]byte
}

// get goes through the keys in turn.
func (c *cache) get() []byte {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	key := c.requests % keys
	c.requests++
	if c.values[key] == nil {
		c.values[key] = make([]byte, size)
		for i := range c.values[key] {
			c.values[key][i] = byte(key + i)
		}
	}
	return c.values[key]
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19123", "address")
	flag.Parse()
	c := new(cache)
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, c.get()[0], chores.Do()) })
	log.Fatal(http.ListenAndServe(*listen, nil))
}
