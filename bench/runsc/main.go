// Command runsc is gVisor's own command line at the revision of our go.mod, to
// compare with in the same run.
package main

import "gvisor.dev/gvisor/runsc/cli/maincli"

func main() { maincli.Main() }
