package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// exit ends the service at once, and says why.
func exit(*options) (int, bool) {
	fmt.Fprintln(os.Stderr, "misbehave: an exit was asked for")
	return 3, true
}

// stdin ends the service when its standard input does, without a word.
func stdin(*options) (int, bool) {
	io.Copy(io.Discard, os.Stdin)
	return 0, true
}

// share lets every process of the same user that wants it too listen at the same address. The kernel spreads the
// connections over all of them.
func share(_, _ string, socket syscall.RawConn) error {
	const reusePort = 15 // SO_REUSEPORT, include/uapi/asm-generic/socket.h; the package syscall lacks it
	var refused error
	err := socket.Control(func(fd uintptr) {
		refused = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1)
	})
	if err != nil {
		return err
	}
	return refused
}

// crash panics in a goroutine of its own, because net/http would recover a panic in the handler's goroutine.
func crash(o *options, number uint64) {
	if number == o.requests {
		go panic("misbehave: a crash was asked for")
	}
}

// segv ends the process with SIGSEGV, like a fault in C code.
func segv(o *options, number uint64) {
	if number != o.requests {
		return
	}
	if err := defaultAction(syscall.SIGSEGV); err != nil {
		fmt.Fprintln(os.Stderr, "misbehave: cannot die of SIGSEGV:", err)
		os.Exit(1)
	}
	syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) // Prevents a core file; it does not matter if that fails.
	syscall.Kill(os.Getpid(), syscall.SIGSEGV)
}

// defaultAction removes the runtime's handler of a signal. os/signal cannot do this: it leaves synchronous signals to
// the runtime, which turns them into an exit with status 2.
func defaultAction(number syscall.Signal) error {
	// All zeros mean SIG_DFL without flags and with an empty mask, in every architecture's layout of sigaction.
	var action [4]uint64
	const maskSize = 8
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(number), uintptr(unsafe.Pointer(&action)), 0, maskSize, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// execute replaces the process with a new one of the same executable, which then behaves normally.
func execute(o *options, number uint64) {
	if number != o.requests {
		return
	}
	executable, err := os.Executable()
	if err == nil {
		arguments := []string{executable, "-mode", "crash", "-requests", "1000000000", "-listen", o.listen}
		err = syscall.Exec(executable, arguments, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "misbehave:", err)
	os.Exit(1)
}

// childArgument makes this executable the child of the mode fork.
const childArgument = "misbehave-child"

// fork starts a child that nobody ends. It is in a session of its own, so signals to the service's process group do not
// reach it, and it lives on after the service.
func fork(o *options) (exit int, ended bool) {
	executable, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "misbehave:", err)
		return 1, true
	}
	child := exec.Command(executable, childArgument, o.childFor.String())
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "misbehave:", err)
		return 1, true
	}
	fmt.Fprintln(os.Stderr, "misbehave: child", child.Process.Pid)
	go child.Wait()
	return 0, false
}

// child holds some memory and sleeps.
func child(length string) int {
	duration, err := time.ParseDuration(length)
	if err != nil {
		fmt.Fprintln(os.Stderr, "misbehave:", err)
		return 2
	}
	held = append(held, touched(8<<20))
	time.Sleep(duration)
	return 0
}

var (
	hogging sync.Once
	held    [][]byte
)

// hog takes memory from the first request on, until the kernel kills the process.
func hog(o *options, _ uint64) {
	hogging.Do(func() {
		go func() {
			const step = 8 << 20
			for total := uint64(0); total < uint64(o.hogMax); total += step {
				held = append(held, touched(step))
				time.Sleep(5 * time.Millisecond)
			}
			fmt.Fprintln(os.Stderr, "misbehave: holds", o.hogMax.String(), "bytes, and nobody minds")
		}()
	})
}

// spooled is spool's file. The GC would close an open file that nothing refers to.
var spooled *os.File

// spool writes to a file in memory (tmpfs) from the first request on, until the kernel kills the process. The file has
// no name, so nothing is left of it.
func spool(o *options, _ uint64) {
	hogging.Do(func() {
		file, err := os.CreateTemp("/dev/shm", "misbehave-*")
		if err == nil {
			err = os.Remove(file.Name())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "misbehave:", err)
			os.Exit(1)
		}
		spooled = file
		go fill(file, o)
	})
}

func fill(file *os.File, o *options) {
	step := make([]byte, 256<<10)
	for total := uint64(0); total < uint64(o.hogMax); total += uint64(len(step)) {
		if _, err := file.Write(step); err != nil {
			fmt.Fprintln(os.Stderr, "misbehave:", err)
			os.Exit(1)
		}
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, "misbehave: spooled", o.hogMax.String(), "bytes, and nobody minds")
}

// touched returns resident memory.
func touched(bytes int) []byte {
	memory := make([]byte, bytes)
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	return memory
}
