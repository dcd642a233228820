// Package cpuid lets programs in a sandbox ask the CPU what it can do without the
// sentry's help.
//
// Where the CPU can trap the instruction, the systrap platform answers it in its
// stead. The C library asks some two hundred times when a program starts, on an
// Intel CPU, and each takes as long as a system call: more than half of what
// running a small command costs. On CPUs that can't trap it, which most of AMD's
// are, the platform does without, and so it does here.
package cpuid
