// Command tmpfs-spool leaks memory that belongs to no process. Each request is appended to a file in memory (tmpfs)
// that is already unlinked and that nobody truncates. Heap, resident set, goroutines and the number of open files stay
// as they are. What the cgroup is charged for grows until the kernel kills.
//
// The kernel charges the pages of a tmpfs to the cgroup that wrote them, and cannot reclaim them without swap:
// kubernetes/kubernetes#72759, DataDog/datadog-agent#37328.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"sync"

	"memgate.dev/fixtures/internal/chores"
)

type spool struct {
	mutex sync.Mutex
	file  *os.File
	size  int64
}

func newSpool(dir string) (*spool, error) {
	file, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, err
	}
	// Nothing is left behind, however the process ends.
	return &spool{file: file}, os.Remove(file.Name())
}

func (s *spool) add(record []byte) (int64, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	n, err := s.file.WriteAt(record, s.size)
	s.size += int64(n)
	return s.size, err
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19103", "address")
	dir := flag.String("dir", "/dev/shm", "a directory on a tmpfs")
	size := flag.Int("record", 16<<10, "bytes of a request")
	flag.Parse()
	s, err := newSpool(*dir)
	if err != nil {
		log.Fatal(err)
	}
	record := make([]byte, *size)
	for i := range record {
		record[i] = byte(i)
	}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		total, err := s.add(record)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInsufficientStorage)
			return
		}
		fmt.Fprintln(w, total, chores.Do())
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
