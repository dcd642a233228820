package cpuid

import (
	"fmt"
	"unsafe" // for system calls

	"golang.org/x/sys/unix"
)

const (
	archSetCPUID = 0x1012 // of arch_prctl, with 0 to trap and 1 not to

	offsetNumber, offsetArch, offsetArg0 = 0, 4, 16 // of struct seccomp_data
)

// Untrap keeps this process and those it becomes and starts from trapping the
// instruction: the call that asks for it fails as it does where the CPU can't.
// Call it in main of a boot process, before the library's own main.
func Untrap() error {
	// Not trapping is the default, so that this only tells whether one could.
	if _, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, archSetCPUID, 1, 0); errno != 0 {
		return nil
	}
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetArch},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 5, K: unix.AUDIT_ARCH_X86_64},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetNumber},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: unix.SYS_ARCH_PRCTL},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetArg0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: archSetCPUID},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENODEV)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("install a filter for arch_prctl: %w", errno)
	}
	return nil
}
