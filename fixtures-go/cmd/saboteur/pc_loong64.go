package main

import "syscall"

// Package syscall has no method for it here.
func setPC(registers *syscall.PtraceRegs, pc uint64) { registers.Era = pc }
