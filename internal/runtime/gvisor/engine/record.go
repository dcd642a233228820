package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"silica.dev/silica/internal/runtime"
	"silica.dev/silica/sandbox"
)

// phase is how far a slot is; it orders what a crash may have left.
type phase string

const (
	making   phase = "making"   // being made: nothing runs in it yet
	empty    phase = "empty"    // a created sentry waits in it
	starting phase = "starting" // claimed by a sandbox, which is not ready yet
	running  phase = "running"
	dying    phase = "dying" // being freed
)

// record is the state file of a slot: all a later engine needs to adopt or free
// what is in it. It is written before the host is touched.
type record struct {
	Slot      int
	Engine    string // ID of the engine whose slot it is
	Phase     phase
	ID        sandbox.ID `json:",omitempty"`
	ImageRef  sandbox.Ref
	Image     string
	Resources sandbox.Resources
	Started   time.Time `json:",omitzero"`
	Address   string    `json:",omitempty"` // IPv4, inside

	// Of the sentry; meaningless after another boot of the machine.
	Pid       int    `json:",omitempty"`
	StartTime uint64 `json:",omitempty"`
	Boot      string

	// Held is set before the kernel is told to hold its processes, and cleared
	// after it was told to let them go.
	Held bool `json:",omitempty"`

	Exit *runtime.Exit `json:",omitempty"` // set when the sandbox ended by itself
}

const (
	recordName = "slot.json"
	recordSize = 16 << 10 // of the file, filled up with spaces
)

// save overwrites the state file in place, with one write of always the same
// size, which a killed process has either done or not. Replacing the file by a
// rename makes ext4 flush it first, and every start would wait for the disk. It
// is not synced: a crash of the machine ends every sentry anyway, and what it
// held on the host with it.
func (r record) save(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(data) > recordSize {
		return fmt.Errorf("slot record of %d bytes is too large", len(data))
	}
	data = append(data, bytes.Repeat([]byte{' '}, recordSize-len(data))...)
	f, err := os.OpenFile(filepath.Join(dir, recordName), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write slot record: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, 0); err != nil {
		return fmt.Errorf("write slot record: %w", err)
	}
	return nil
}

func loadRecord(dir string) (record, error) {
	var r record
	data, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return r, fmt.Errorf("read slot record: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("parse slot record %s: %w", dir, err)
	}
	return r, nil
}

// bootID names the machine's current boot.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(id)), nil
}
