// Command mmap-db is healthy. It maps a database file read-only and shared, and each request reads pages that no
// earlier one has read. The resident set grows by them, but they are the kernel's cached copies of a file: clean, and
// gone as soon as somebody needs the room.
//
// etcd-io/bbolt#541 and grafana/mimir#9997 are reports of such memory as a leak.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"

	"memgate.dev/fixtures/internal/chores"
)

const adviseRandom = 1 // MADV_RANDOM, which embedded databases ask for: no reading ahead.

func mapped(dir string, size int) ([]byte, error) {
	file, err := os.CreateTemp(dir, "db-*")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := os.Remove(file.Name()); err != nil {
		return nil, err
	}
	// A file of holes: its pages cost no disk, and the kernel caches and counts them like any others.
	if err := file.Truncate(int64(size)); err != nil {
		return nil, err
	}
	data, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return data, syscall.Madvise(data, adviseRandom)
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19108", "address")
	dir := flag.String("dir", os.TempDir(), "a directory on a disk, not a tmpfs")
	megabytes := flag.Int("db", 256, "MiB of the file")
	pages := flag.Int("pages", 4, "pages that a request reads")
	flag.Parse()
	db, err := mapped(*dir, *megabytes<<20)
	if err != nil {
		log.Fatal(err)
	}
	page, next := os.Getpagesize(), atomic.Uint64{}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		sum := 0
		for i := 0; i < *pages; i++ {
			at := next.Add(1) * 4099 % uint64(len(db)/page) // 4099 is prime: each page once before any twice.
			sum += int(db[int(at)*page])
		}
		fmt.Fprintln(w, sum, chores.Do())
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
