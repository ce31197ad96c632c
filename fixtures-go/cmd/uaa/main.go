// Command uaa is a small and healthy identity service with planted defects that flags switch on. README.md describes
// them.
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
	"syscall"
	"time"
)

// shutdownTimeout is how long requests in flight and unused connections may take to end after SIGTERM.
const shutdownTimeout = 3 * time.Second

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	os.Exit(run(signals, os.Args[1:], os.Stderr))
}

// run serves until a signal comes and returns the exit code: 0 after a signal, 1 if the service cannot listen, 2 for
// wrong flags.
func run(signals <-chan os.Signal, args []string, stderr io.Writer) int {
	options, err := parseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "uaa:", err)
		return 2
	}
	service, err := newService(options)
	if err != nil {
		fmt.Fprintln(stderr, "uaa:", err)
		return 2
	}
	listener, err := net.Listen("tcp", options.listen)
	if err != nil {
		fmt.Fprintln(stderr, "uaa:", err)
		return 1
	}
	fmt.Fprintln(stderr, "uaa: listening on", listener.Addr())
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		defer stop()
		if service.debug == nil {
			<-signals
			return
		}
		service.debug.awaitEnd(signals)
	}()
	if err := serve(ctx, listener, service); err != nil {
		fmt.Fprintln(stderr, "uaa:", err)
		return 1
	}
	return 0
}

// serve answers requests until the context ends, then lets requests in flight finish.
func serve(ctx context.Context, listener net.Listener, service *service) error {
	server := &http.Server{
		Handler:           service.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
	}
	service.start(ctx)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	service.ready.Store(false)
	limit, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		return server.Close()
	}
	return nil
}
