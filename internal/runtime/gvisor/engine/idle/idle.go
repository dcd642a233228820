// Package idle keeps a sentry in which nothing runs from using a CPU all the same.
//
// The systrap platform starts a goroutine that wakes 2,500 times a second, for
// ever, to decide whether sentry and stubs may spin for each other instead of
// sleeping. In a sandbox that waits for its next command it costs 2 % of a core.
package idle

import (
	"sync"
	_ "unsafe" // for linkname

	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap" // holds the variable
)

// latencyMonitoring guards the start of that goroutine. If it is renamed there,
// linking fails.
//
//go:linkname latencyMonitoring gvisor.dev/gvisor/pkg/sentry/platform/systrap.latencyMonitoring
var latencyMonitoring sync.Once

// Quiet keeps the goroutine from starting: spinning stays off. Call it in main
// of a boot process, before the library's own main.
func Quiet() { latencyMonitoring.Do(func() {}) }
