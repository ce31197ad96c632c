package main

import (
	"errors"
	"io"
	"math/rand"
	"net/http"
	"net/http/cookiejar"
	"sort"
	"sync"
	"time"
)

// mix is the mix of requests in memgate.yaml.
var mix = []struct {
	method, path string
	weight       int
}{{"POST", "/login", 3}, {"GET", "/verify", 6}, {"POST", "/logout", 1}}

func waitUntilReady(base string) error {
	for i := 0; i < 200; i++ {
		if response, err := http.Get(base + "/healthz"); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the service does not get ready")
}

// load is a running load. Requests start at intended times, and the connections take turns.
type load struct {
	ended   chan struct{}
	workers sync.WaitGroup

	mutex     sync.Mutex
	latencies []time.Duration // From the intended start.
	failures  int
}

func startLoad(o *options, base string) *load {
	l := &load{ended: make(chan struct{})}
	queue := make(chan time.Time, 1<<16)
	for c := 0; c < o.connections; c++ {
		l.workers.Add(1)
		go l.work(base, rand.New(rand.NewSource(o.seed+int64(c))), queue)
	}
	go l.schedule(o.rate, queue)
	return l
}

func (l *load) schedule(rate float64, queue chan<- time.Time) {
	defer close(queue)
	gap := time.Duration(float64(time.Second) / rate)
	for next := time.Now(); ; next = next.Add(gap) {
		time.Sleep(time.Until(next))
		select {
		case <-l.ended:
			return
		case queue <- next:
		}
	}
}

// work is one connection with its own cookies.
func (l *load) work(base string, random *rand.Rand, queue <-chan time.Time) {
	defer l.workers.Done()
	jar, _ := cookiejar.New(nil) // Cannot fail without options.
	client := &http.Client{Jar: jar, Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: 5 * time.Second}
	for intended := range queue {
		ok := send(client, base, random)
		l.mutex.Lock()
		l.latencies = append(l.latencies, time.Since(intended))
		if !ok {
			l.failures++
		}
		l.mutex.Unlock()
	}
}

func send(client *http.Client, base string, random *rand.Rand) bool {
	choice, total := 0, 0
	for _, kind := range mix {
		total += kind.weight
	}
	for at := random.Intn(total); at >= mix[choice].weight; choice++ {
		at -= mix[choice].weight
	}
	request, err := http.NewRequest(mix[choice].method, base+mix[choice].path, nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err == nil && response.StatusCode == http.StatusOK
}

// forget drops what was counted so far.
func (l *load) forget() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.latencies, l.failures = nil, 0
}

func (l *load) stop() {
	close(l.ended)
	l.workers.Wait()
	sort.Slice(l.latencies, func(i, j int) bool { return l.latencies[i] < l.latencies[j] })
}

func (l *load) quantile(q float64) time.Duration {
	if len(l.latencies) == 0 {
		return 0
	}
	return l.latencies[int(q*float64(len(l.latencies)-1))]
}
