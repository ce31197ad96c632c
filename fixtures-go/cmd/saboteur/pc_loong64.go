package main

import "syscall"

// Package syscall has no method for this on loong64.
func setPC(registers *syscall.PtraceRegs, pc uint64) { registers.Era = pc }
