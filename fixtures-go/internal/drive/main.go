// Command drive puts a load on uaa and prints the figures of its runtime. It is for people who change the fixtures and
// want to see the effect of a flag; memgate has its own load generator.
//
//	go build -o /tmp/uaa ./cmd/uaa && go run ./internal/drive /tmp/uaa -leak-sessions=0.5
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

type options struct {
	listen          string
	rate            float64
	connections     int
	warmup, measure time.Duration
	seed            int64
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:18099", "address that the service is to listen on")
	flag.Float64Var(&o.rate, "rate", 500, "requests per second")
	flag.IntVar(&o.connections, "connections", 32, "connections")
	flag.DurationVar(&o.warmup, "warmup", 4*time.Second, "time under load before measuring")
	flag.DurationVar(&o.measure, "measure", 12*time.Second, "time of measuring")
	flag.Int64Var(&o.seed, "seed", 1, "seed of the order of the requests")
	flag.Parse()
	if err := drive(&o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "drive:", err)
		os.Exit(1)
	}
}

// drive runs the service, the load and the observation.
func drive(o *options, command []string) error {
	if len(command) == 0 {
		return errors.New("name the executable and its flags")
	}
	service := exec.Command(command[0], append([]string{"-listen", o.listen, "-debug-memgate"}, command[1:]...)...)
	service.Stderr = os.Stderr
	if err := service.Start(); err != nil {
		return err
	}
	defer service.Wait()
	defer service.Process.Signal(syscall.SIGTERM)
	base := "http://" + o.listen
	if err := waitUntilReady(base); err != nil {
		return err
	}
	load := startLoad(o, base)
	time.Sleep(o.warmup)
	load.forget()
	samples, err := observe(base, service.Process.Pid, o.measure)
	load.stop()
	if err != nil {
		return err
	}
	print(samples, load)
	return nil
}
