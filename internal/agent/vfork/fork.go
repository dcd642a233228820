package vfork

import "syscall"

// fork makes the clone call. The child runs on the caller's stack, so the address
// to return to is kept in a register meanwhile: the child would overwrite it.
//
//go:noescape
func fork(flags uintptr) (pid uintptr, errno syscall.Errno)
