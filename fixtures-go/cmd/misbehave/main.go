// Command misbehave is a service that does what services must not do. Tests use it to see how memgate copes. README.md
// describes the modes.
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

	"memgate.dev/fixtures/internal/bytesize"
)

// mode is what a service in this mode does differently. A nil field means the usual behaviour.
type mode struct {
	atStart   func(*options) (exit int, ended bool)
	unready   bool
	status    int
	onRequest func(*options, uint64) // Gets the number of the request, from 1.
	deaf      bool                   // Ignores SIGTERM and SIGINT.
	shares    bool                   // Lets others listen at its address.
}

var modes = map[string]mode{
	"never-ready":    {unready: true},
	"crash":          {onRequest: crash},
	"segv":           {onRequest: segv},
	"exit":           {atStart: exit},
	"stdin":          {atStart: stdin},
	"fork":           {atStart: fork},
	"exec":           {onRequest: execute},
	"fail-all":       {status: http.StatusInternalServerError},
	"ignore-sigterm": {deaf: true},
	"hog":            {onRequest: hog},
	"spool":          {onRequest: spool},
	"share":          {shares: true},
}

// names lists the modes for messages.
const names = "never-ready, crash, segv, exit, stdin, fork, exec, fail-all, ignore-sigterm, hog, spool or share"

type options struct {
	mode     string
	listen   string
	requests uint64
	hogMax   bytesize.Size
	childFor time.Duration
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == childArgument {
		os.Exit(child(os.Args[2]))
	}
	os.Exit(run(os.Args[1:], os.Stderr))
}

func parse(args []string, stderr io.Writer) (*options, mode, error) {
	o := options{hogMax: 4 << 30}
	flags := flag.NewFlagSet("misbehave", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.mode, "mode", "", names)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8080", "address to listen on")
	flags.Uint64Var(&o.requests, "requests", 100, "crash, segv, exec: at which request; healthz does not count")
	flags.Var(&o.hogMax, "hog-max", "hog, spool: stop at this many bytes unless something stops it before")
	flags.DurationVar(&o.childFor, "child-for", 5*time.Minute, "fork: how long the child lives")
	if err := flags.Parse(args); err != nil {
		return nil, mode{}, err
	}
	chosen, known := modes[o.mode]
	if !known || flags.NArg() > 0 {
		return nil, mode{}, fmt.Errorf("-mode %q %s: the mode must be %s", o.mode, strings.Join(flags.Args(), " "), names)
	}
	return &o, chosen, nil
}

func run(args []string, stderr io.Writer) int {
	options, mode, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "misbehave:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if mode.deaf {
		stop()
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
		ctx = context.Background()
	}
	if mode.atStart != nil {
		if code, ended := mode.atStart(options); ended {
			return code
		}
	}
	config := net.ListenConfig{}
	if mode.shares {
		config.Control = share
	}
	if err := serve(ctx, config, options.listen, routes(options, mode)); err != nil {
		fmt.Fprintln(stderr, "misbehave:", err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, config net.ListenConfig, address string, handler http.Handler) error {
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "misbehave: listening on", listener.Addr())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// routes answers every path except /healthz in the same way.
func routes(o *options, mode mode) http.Handler {
	var requests atomic.Uint64
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if mode.unready {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		number := requests.Add(1)
		if mode.onRequest != nil {
			mode.onRequest(o, number)
		}
		if mode.status != 0 {
			w.WriteHeader(mode.status)
			return
		}
		fmt.Fprintln(w, `{"active":false}`)
	})
	return mux
}
