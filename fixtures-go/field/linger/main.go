// Command linger is healthy. One request in ten makes a hold, and a goroutine releases it eight seconds later, come
// what may. Under load there are always about as many. When the load ends they go one after the other, and after eight
// seconds none is left.
//
// A check that waits for a fixed time takes them for leaked: googleapis/google-cloud-go#5430, golang/go#14887.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"memgate.dev/fixtures/internal/chores"
)

type holds struct {
	mutex sync.Mutex
	ids   map[uint64]bool
}

func (h *holds) take(id uint64, grace time.Duration) {
	h.mutex.Lock()
	h.ids[id] = true
	h.mutex.Unlock()
	go h.release(id, grace)
}

func (h *holds) release(id uint64, grace time.Duration) {
	time.Sleep(grace)
	h.mutex.Lock()
	delete(h.ids, id)
	h.mutex.Unlock()
}

func (h *holds) count() int {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return len(h.ids)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19107", "address")
	grace := flag.Duration("grace", 8*time.Second, "how long a hold lasts")
	flag.Parse()
	h := &holds{ids: map[uint64]bool{}}
	var requests atomic.Uint64
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		if id := requests.Add(1); id%10 == 0 {
			h.take(id, *grace)
		}
		fmt.Fprintln(w, h.count(), chores.Do())
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
