// Command habits is several small services in one. Each has one habit beside an ordinary request's garbage, healthy or
// not, which -habit names.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"memgate.dev/fixtures/internal/chores"
)

// habits by name. Each returns what the service does with the request of this number.
var habits = map[string]func() func(number uint64) any{
	"child-processes": childProcesses,
	"batch":           batch,
	"cron":            cron,
	"leaking-worker":  leakingWorker,
	"open-files":      openFiles,
	"response-bodies": responseBodies,
	"mappings":        mappings,
	"reports":         reports,
}

// every calls do for each request whose number is a multiple of n.
func every(n uint64, do func() any) func(uint64) any {
	return func(number uint64) any {
		if number%n != 0 {
			return number
		}
		return do()
	}
}

// childProcesses is healthy: one request in thirty starts a process that ends at once.
func childProcesses() func(uint64) any {
	return every(30, func() any {
		out, err := exec.Command("/bin/echo", "hello").Output()
		if err != nil {
			return err
		}
		return len(out)
	})
}

// hold allocates this many rows of 64 KiB, and touches each page.
func hold(rows int) [][]byte {
	held := make([][]byte, rows)
	for i := range held {
		held[i] = make([]byte, 64<<10)
		for page := 0; page < len(held[i]); page += 4096 {
			held[i][page] = 1
		}
	}
	return held
}

// jobs holds so many rows for a while at every interval.
func jobs(interval time.Duration, rows int, holds time.Duration) {
	for range time.Tick(interval) {
		held := hold(rows)
		time.Sleep(holds)
		runtime.KeepAlive(held)
	}
}

// batch is healthy: a job holds 50 MB for one second in ten.
func batch() func(uint64) any {
	go jobs(10*time.Second, 800, time.Second)
	return func(number uint64) any { return number }
}

// cron is healthy: a job holds 20 MB for half a second in twenty seconds. Requests cause few GC cycles, and most cycles
// are the job's.
func cron() func(uint64) any {
	go jobs(20*time.Second, 320, 500*time.Millisecond)
	return func(number uint64) any { return number }
}

// journal keeps what its process is asked to.
type journal struct {
	mutex sync.Mutex
	kept  [][]byte
}

//go:noinline
func (j *journal) keep(size int) int {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	j.kept = append(j.kept, make([]byte, size))
	return len(j.kept)
}

// leakingWorker serves in a process of its own, as under a supervisor. That process keeps 1000 bytes of each request.
func leakingWorker() func(uint64) any {
	const inWorker = "worker"
	if flag.Arg(0) == inWorker {
		kept := &journal{}
		return func(uint64) any { return kept.keep(1000) }
	}
	worker := exec.Command("/proc/self/exe", append(os.Args[1:], inWorker)...)
	worker.Stdout, worker.Stderr = os.Stdout, os.Stderr
	worker.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := worker.Start(); err != nil {
		log.Fatal(err)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		_ = worker.Process.Signal(syscall.SIGTERM)
	}()
	_ = worker.Wait()
	os.Exit(0)
	return nil
}

// openFiles leaves a file open, one request in 300.
func openFiles() func(uint64) any {
	var mutex sync.Mutex
	var files []*os.File
	return every(300, func() any {
		file, err := os.Open("/proc/self/exe")
		if err != nil {
			return err
		}
		mutex.Lock()
		defer mutex.Unlock()
		files = append(files, file)
		return len(files)
	})
}

// responseBodies asks a server and never closes the body, one request in 100. The connection and its goroutines stay.
func responseBodies() func(uint64) any {
	answer := strings.Repeat("x", 100_000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
	return every(100, func() any {
		response, err := http.Get(server.URL)
		if err != nil {
			return err
		}
		return response.StatusCode
	})
}

// mappings maps 8 KiB and never unmaps them, one request in 20: 7 MB/min.
func mappings() func(uint64) any {
	return every(20, func() any {
		pages, err := syscall.Mmap(-1, 0, 8<<10, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			return err
		}
		pages[0], pages[4096] = 1, 1
		return pages[0]
	})
}

// reports keeps 5 MB every 25 s.
func reports() func(uint64) any {
	kept := &journal{}
	go func() {
		for range time.Tick(25 * time.Second) {
			kept.keep(5 << 20)
		}
	}()
	return func(number uint64) any { return number }
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19130", "address")
	name := flag.String("habit", "", "what it does")
	flag.Parse()
	habit, ok := habits[*name]
	if !ok {
		log.Fatalf("no habit %q", *name)
	}
	work := habit()
	var requests atomic.Uint64
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, work(requests.Add(1)), chores.Do())
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
