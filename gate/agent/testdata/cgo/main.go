// Stops in C that Go called, then in C that Go called while C had called it, then in Go.
package main

/*
#cgo CFLAGS: -O2 -fomit-frame-pointer
#include <signal.h>

__attribute__((noipa)) static int leaf(int n) {
	raise(SIGSTOP);
	return n + 1;
}

extern int backInGo(int n);

__attribute__((noipa)) static int callsBack(int n) {
	return backInGo(n) + 1;
}
*/
import "C"

import (
	"runtime"
	"syscall"
)

// The main goroutine stays on the main thread, which is the one that the test traces.
func init() { runtime.LockOSThread() }

//go:noinline
func inner(n int) int { return int(C.leaf(C.int(n))) + 1 }

func inlined(n int) int { return inner(n) + 1 }

//go:noinline
func outer(n int) int { return inlined(n) + 1 }

//export backInGo
func backInGo(n C.int) C.int { return C.int(inner(int(n))) }

//go:noinline
func callsC(n int) int { return int(C.callsBack(C.int(n))) + 1 }

//go:noinline
func stopsInGo() error { return syscall.Tgkill(syscall.Getpid(), syscall.Gettid(), syscall.SIGSTOP) }

func main() { println(outer(1), callsC(1), stopsInGo()) }
