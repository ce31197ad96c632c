//go:build !loong64

package main

import "syscall"

func setPC(registers *syscall.PtraceRegs, pc uint64) { registers.SetPC(pc) }
