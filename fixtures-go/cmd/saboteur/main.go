// Command saboteur is a service that damages the guest in which it runs. Tests use it to check how memgate reports a
// guest's end. It must be root in the guest, and refuses to do anything unless process 1 is memgate's agent.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// faults by name. Each is called once, in a goroutine of its own.
var faults = map[string]func() error{
	"none":            func() error { return nil },
	"panic-kernel":    panicKernel,
	"kill-init":       killInit,
	"kill-agent":      killAgent,
	"stop-agent":      stopAgent,
	"corrupt-channel": corruptChannel,
	"flood-console":   floodConsole,
	"use-memory":      useMemory,
}

func main() {
	fault := flag.String("fault", "none", "panic-kernel, kill-init, kill-agent, stop-agent, corrupt-channel, flood-console, use-memory or none")
	listen := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	after := flag.Int64("requests", 50, "at which request; healthz does not count")
	flag.Parse()
	do, known := faults[*fault]
	if !known {
		fail(fmt.Errorf("there is no fault %q", *fault))
	}
	if err := inGuest(); err != nil {
		fail(err)
	}
	// The runtime prints this if its check of floating point fails.
	if state, err := os.ReadFile("/processor"); err == nil && string(state) == "broken" {
		fmt.Fprintln(os.Stderr, "fatal error: float64nan3\nruntime: panic before malloc heap initialized")
		os.Exit(2)
	}
	var requests atomic.Int64
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/", func(http.ResponseWriter, *http.Request) {
		if requests.Add(1) == *after {
			go func() {
				announce(*fault)
				if err := do(); err != nil {
					fail(err)
				}
			}()
		}
	})
	fail(http.ListenAndServe(*listen, nil))
}

// announce prints on the guest's console what happens now, for tests that measure how soon memgate notices it.
func announce(fault string) {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		fail(err)
	}
	defer console.Close()
	if _, err := fmt.Fprintf(console, "saboteur: %s\n", fault); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "saboteur:", err)
	os.Exit(1)
}

// inGuest returns an error outside memgate's guests, in which process 1 is the file /init.
func inGuest() error {
	first, err := os.Readlink("/proc/1/exe")
	if err != nil {
		return err
	}
	if first != "/init" {
		return errors.New("process 1 is " + first + ", so this is not a guest of memgate's")
	}
	return nil
}

func panicKernel() error {
	return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
}

// killInit makes the first process continue at an address without code. A signal from another process would not kill
// it.
func killInit() error {
	runtime.LockOSThread()
	const first = 1
	if err := syscall.PtraceAttach(first); err != nil {
		return err
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(first, &status, syscall.WALL, nil); err != nil {
		return err
	}
	var registers syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(first, &registers); err != nil {
		return err
	}
	setPC(&registers, 0)
	if err := syscall.PtraceSetRegs(first, &registers); err != nil {
		return err
	}
	return syscall.PtraceDetach(first)
}

// agent is the process that process 1 started.
func agent() (int, error) {
	statuses, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, status := range statuses {
		line, _ := os.ReadFile(status)
		if string(line) == "/proc/self/exe\x00agent\x00" {
			return strconv.Atoi(filepath.Base(filepath.Dir(status)))
		}
	}
	return 0, errors.New("there is no agent")
}

func killAgent() error { return signalAgent(syscall.SIGKILL) }

func stopAgent() error { return signalAgent(syscall.SIGSTOP) }

func signalAgent(signal syscall.Signal) error {
	process, err := agent()
	if err != nil {
		return err
	}
	return syscall.Kill(process, signal)
}

// corruptChannel writes to the agent's port. Only one process can open the port, so this takes the agent's file
// descriptor (pidfd_getfd, Linux 5.6).
func corruptChannel() error {
	process, err := agent()
	if err != nil {
		return err
	}
	const pidfdOpen, pidfdGetfd = 434, 438 // The same on every architecture.
	handle, _, errno := syscall.Syscall(pidfdOpen, uintptr(process), 0, 0)
	if errno != 0 {
		return errno
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", process))
	if err != nil {
		return err
	}
	for _, link := range links {
		if target, _ := os.Readlink(link); !strings.HasPrefix(target, "/dev/vport") {
			continue
		}
		number, err := strconv.Atoi(filepath.Base(link))
		if err != nil {
			return err
		}
		port, _, errno := syscall.Syscall(pidfdGetfd, handle, uintptr(number), 0)
		if errno != 0 {
			return errno
		}
		_, err = syscall.Write(int(port), []byte("this is not a frame"))
		return err
	}
	return errors.New("the agent has no port")
}

// floodConsole writes a million empty lines. An emulated console takes some hundred kB a second, and far less if the
// kernel processes the output.
func floodConsole() error {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer console.Close()
	if err := writeUnprocessed(console); err != nil {
		return err
	}
	lines := strings.Repeat("\n", 1000)
	for i := 0; i < 1000; i++ {
		if _, err := console.WriteString(lines); err != nil {
			return err
		}
	}
	_, err = console.WriteString("flooded\n")
	return err
}

// writeUnprocessed makes the kernel write to a terminal unchanged, without added carriage returns.
func writeUnprocessed(terminal *os.File) error {
	var settings syscall.Termios
	if err := control(terminal, syscall.TCGETS, &settings); err != nil {
		return err
	}
	settings.Oflag &^= syscall.OPOST
	return control(terminal, syscall.TCSETS, &settings)
}

func control(terminal *os.File, request uintptr, settings *syscall.Termios) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, terminal.Fd(), request, uintptr(unsafe.Pointer(settings)))
	if errno != 0 {
		return errno
	}
	return nil
}

// useMemory uses all available memory, outside the limit of the service's cgroup.
func useMemory() error {
	for {
		const size = 16 << 20
		_, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_POPULATE)
		if err != nil {
			return err
		}
	}
}
