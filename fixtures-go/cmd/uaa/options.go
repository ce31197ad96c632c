package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"memgate.dev/fixtures/internal/bytesize"
)

// options are the flags of the command line.
type options struct {
	listen         string
	seed           uint64
	sessionTTL     time.Duration
	expiryInterval time.Duration
	hashRounds     uint64
	debug          bool

	leakSessions   float64
	leakGoroutines uint64
	allocMore      float64
	leakMmap       bytesize.Size
	leakMalloc     bytesize.Size
	stwEvery       time.Duration
	stwCopy        time.Duration
	warmCache      bytesize.Size
}

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	var o options
	flags := flag.NewFlagSet("uaa", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8080", "address to listen on")
	flags.Uint64Var(&o.seed, "seed", 1, "seed of the users and the session IDs")
	flags.DurationVar(&o.sessionTTL, "session-ttl", 2*time.Second, "how long a session lives")
	flags.DurationVar(&o.expiryInterval, "expiry-interval", 250*time.Millisecond, "how often expired sessions are removed")
	flags.Uint64Var(&o.hashRounds, "hash-rounds", 0, "rounds of SHA-256 that each login costs, as hashing a password does")
	flags.BoolVar(&o.debug, "debug-memgate", false, "serve the test-only endpoints under /debug")
	flags.Float64Var(&o.leakSessions, "leak-sessions", 0, "defect: this share of the logins, 0 to 1, makes sessions that never go")
	flags.Uint64Var(&o.leakGoroutines, "leak-goroutines", 0, "defect: one in this many requests starts a goroutine that never ends")
	flags.Float64Var(&o.allocMore, "alloc-more", 0, "defect: every request allocates this many percent more bytes")
	flags.Var(&o.leakMmap, "leak-mmap", "defect: bytes a request that are mapped and forgotten")
	flags.Var(&o.leakMalloc, "leak-malloc", "defect: bytes a request of the C heap that are forgotten (needs -tags cgoleak)")
	flags.DurationVar(&o.stwEvery, "stw-every", 0, "defect: run the GC at this interval")
	flags.DurationVar(&o.stwCopy, "stw-copy", 0, "defect: copy a log over and over; each copy takes so long, and no GC can interrupt it")
	flags.Var(&o.warmCache, "warm-cache", "no defect: fill a cache of this many bytes with the first requests")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return &o, o.validate()
}

func (o *options) validate() error {
	switch {
	case o.sessionTTL <= 0:
		return errors.New("-session-ttl must be positive")
	case o.expiryInterval <= 0:
		return errors.New("-expiry-interval must be positive")
	case !(o.allocMore >= 0 && o.allocMore <= 10_000):
		return errors.New("-alloc-more must be between 0 and 10000")
	case o.stwEvery < 0:
		return errors.New("-stw-every must not be negative")
	case o.stwCopy < 0:
		return errors.New("-stw-copy must not be negative")
	}
	return nil
}
