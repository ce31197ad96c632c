// Command transports is a service that clients reach in several ways at once: over TCP, a unix socket and TLS, with
// HTTP/1.1 and, built with Go 1.24 or later, HTTP/2 and a gRPC method. Clients can log in.
// At its end it says what came over which.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"strings"
	"sync"
	"syscall"
)

// A tally counts requests and connections by how they came.
type tally struct {
	mutex       sync.Mutex
	requests    map[string]int
	connections map[string]int
}

func (t *tally) add(to *map[string]int, what string) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if *to == nil {
		*to = make(map[string]int)
	}
	(*to)[what]++
}

func (t *tally) String() string {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	var parts []string
	for what, count := range t.requests {
		parts = append(parts, fmt.Sprintf("%s: %d requests", what, count))
	}
	for what, count := range t.connections {
		parts = append(parts, fmt.Sprintf("%s: %d connections", what, count))
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}

// handler answers what comes over one listener.
func handler(over string, counts *tally) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/work", func(w http.ResponseWriter, r *http.Request) {
		counts.add(&counts.requests, over+" "+r.Proto)
		io.Copy(w, r.Body)
		fmt.Fprintln(w, r.Host)
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		user, _ := io.ReadAll(r.Body)
		counts.add(&counts.requests, "login of "+string(user))
		fmt.Fprintf(w, `{"access": {"token": %q}}`, "token of "+string(user))
	})
	mux.HandleFunc("/private", func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer token of user-") {
			http.Error(w, "log in first", http.StatusUnauthorized)
			return
		}
		counts.add(&counts.requests, "private")
		fmt.Fprintln(w, r.FormValue("n"))
	})
	mux.HandleFunc("/memgate.Echo/Say", func(w http.ResponseWriter, r *http.Request) {
		counts.add(&counts.requests, over+" gRPC")
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		// The message of the request, with its prefix, is that of the answer.
		io.Copy(w, r.Body)
		w.Header().Set("Grpc-Status", r.Header.Get("X-Status"))
	})
	return mux
}

// server serves one listener.
func server(over string, counts *tally) *http.Server {
	s := &http.Server{Handler: handler(over, counts)}
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			counts.add(&counts.connections, over)
		}
	}
	speakHTTP2(s)
	return s
}

func listen(network, address string) net.Listener {
	listener, err := net.Listen(network, address)
	if err != nil {
		log.Fatalf("transports: %v", err)
	}
	return listener
}

func main() {
	address := flag.String("listen", "127.0.0.1:8080", "address for plain HTTP")
	path := flag.String("unix", "", "path of a unix socket for plain HTTP; none if empty")
	secure := flag.String("tls", "", "address for HTTPS; none if empty")
	certificate := flag.String("certificate", "", "PEM file with the certificate and its key, for -tls")
	flag.Parse()

	var counts tally
	// The order matters: a service that answers at -listen is ready everywhere.
	if *path != "" {
		l := listen("unix", *path)
		go func() { log.Fatal(server("unix", &counts).Serve(l)) }()
	}
	if *secure != "" {
		l := listen("tcp", *secure)
		go func() { log.Fatal(server("tls", &counts).ServeTLS(l, *certificate, *certificate)) }()
	}
	l := listen("tcp", *address)
	go func() { log.Fatal(server("tcp", &counts).Serve(l)) }()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	fmt.Println("transports:", &counts)
	if *path != "" {
		os.Remove(*path)
	}
}
