// Command notes keeps notes in PostgreSQL and a cache of them in Redis. Tests use it as a service that has dependencies.
// README.md describes it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"memgate.dev/fixtures/internal/postgres"
	"memgate.dev/fixtures/internal/redis"
)

type options struct {
	listen, socket            string
	redis, postgres, database string
	connections               int
	migrate, notify, stdin    bool
	startFor                  time.Duration
	say                       string
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "notes: %v\n", err)
		os.Exit(2)
	}
	act := serve
	if o.migrate {
		act = migrate
	}
	if err := act(o); err != nil {
		fmt.Fprintf(os.Stderr, "notes: %v\n", err)
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (*options, error) {
	var o options
	flags := flag.NewFlagSet("notes", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8080", "address to listen on")
	flags.StringVar(&o.socket, "socket", "", "unix socket to listen on, too")
	flags.StringVar(&o.redis, "redis", "", "address or socket of Redis; none without")
	flags.StringVar(&o.postgres, "postgres", "", "address or socket of PostgreSQL; none without")
	flags.StringVar(&o.database, "database", "postgres", "name of the user and of the database")
	flags.IntVar(&o.connections, "connections", 4, "connections to each of them")
	flags.BoolVar(&o.migrate, "migrate", false, "make the tables and end")
	flags.BoolVar(&o.notify, "notify", false, "say READY=1 to NOTIFY_SOCKET")
	flags.BoolVar(&o.stdin, "stdin", false, "end with the standard input")
	flags.DurationVar(&o.startFor, "start-for", 0, "how long the start takes")
	flags.StringVar(&o.say, "say", "", "name of a variable to print")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if o.connections < 1 || flags.NArg() > 0 {
		return nil, errors.New("-connections must be at least 1, and there are no arguments")
	}
	return &o, nil
}

// migrate makes the tables.
func migrate(o *options) error {
	client, err := postgres.Dial(o.postgres, o.database, o.database)
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Query("CREATE TABLE notes (id bigserial PRIMARY KEY, text text NOT NULL)"); err != nil {
		return err
	}
	fmt.Println("notes: the table is made")
	return nil
}

// service answers requests. Each pool lends its connections to one request at a time.
type service struct {
	caches   chan *redis.Client
	tables   chan *postgres.Client
	isReady  atomic.Bool
	requests atomic.Uint64
}

func serve(o *options) error {
	if o.say != "" {
		fmt.Printf("notes: %s=%s\n", o.say, os.Getenv(o.say))
	}
	stop, ended := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer ended()
	if o.stdin {
		go func() {
			io.Copy(io.Discard, os.Stdin)
			os.Exit(0)
		}()
	}
	s := &service{}
	if err := s.connect(o); err != nil {
		return err
	}
	server := &http.Server{Handler: s.handler()}
	failed := make(chan error, 2)
	if err := listen(server, "tcp", o.listen, failed); err != nil {
		return err
	}
	if o.socket != "" {
		if err := listen(server, "unix", o.socket, failed); err != nil {
			return err
		}
	}
	if o.notify {
		notify("STATUS=starting")
	}
	time.Sleep(o.startFor)
	s.isReady.Store(true)
	fmt.Printf("notes: listening on %s\n", o.listen)
	if o.notify {
		notify("READY=1")
	}
	select {
	case err := <-failed:
		return err
	case <-stop.Done():
		return server.Close()
	}
}

func listen(server *http.Server, network, address string, failed chan<- error) error {
	listener, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}()
	return nil
}

// notify tells the service's manager something, as sd_notify(3) does.
func notify(state string) {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "notes: %v\n", err)
		return
	}
	defer conn.Close()
	io.WriteString(conn, state)
}

func (s *service) connect(o *options) error {
	if o.redis != "" {
		s.caches = make(chan *redis.Client, o.connections)
		for i := 0; i < o.connections; i++ {
			client, err := redis.Dial(o.redis)
			if err != nil {
				return err
			}
			s.caches <- client
		}
	}
	if o.postgres != "" {
		s.tables = make(chan *postgres.Client, o.connections)
		for i := 0; i < o.connections; i++ {
			client, err := postgres.Dial(o.postgres, o.database, o.database)
			if err != nil {
				return err
			}
			s.tables <- client
		}
	}
	return nil
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.isReady.Load() {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/notes", func(w http.ResponseWriter, r *http.Request) {
		answer, err := s.note(r.Method == http.MethodPost)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintln(w, answer)
	})
	return mux
}

// note writes a note, or reads the last one: from the cache if it is there.
func (s *service) note(write bool) (string, error) {
	text := fmt.Sprintf("note %d: %s", s.requests.Add(1), strings.Repeat("it's ", 20))
	if write {
		if err := s.query("INSERT INTO notes (text) VALUES (" + postgres.Quote(text) + ")"); err != nil {
			return "", err
		}
		return s.cache("SET", "last", text)
	}
	return s.cache("GET", "last")
}

func (s *service) query(statement string) error {
	if s.tables == nil {
		return nil
	}
	client := <-s.tables
	defer func() { s.tables <- client }()
	_, err := client.Query(statement)
	return err
}

func (s *service) cache(words ...string) (string, error) {
	if s.caches == nil {
		return "no cache", nil
	}
	client := <-s.caches
	defer func() { s.caches <- client }()
	return client.Do(words...)
}
