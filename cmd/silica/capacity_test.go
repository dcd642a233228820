package main

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"silica.dev/silica/sandbox"
)

func TestCapacity(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	roomy := measure{free: 100 * gib, all: 200 * gib}
	for name, c := range map[string]struct {
		disk, memory measure
		err          error // of measuring
		ok           bool
	}{
		"roomy":                    {disk: roomy, memory: roomy, ok: true},
		"small disk, just enough":  {disk: measure{512 * mib, 10 * gib}, memory: roomy, ok: true},
		"small disk":               {disk: measure{500 * mib, 10 * gib}, memory: roomy},
		"large disk":               {disk: measure{gib - 1, 200 * gib}, memory: roomy},
		"small memory, just right": {disk: roomy, memory: measure{576 * mib, 4 * gib}, ok: true},
		"small memory":             {disk: roomy, memory: measure{576*mib - 1, 4 * gib}},
		"large memory":             {disk: roomy, memory: measure{gib, 64 * gib}},
		"unknown":                  {disk: roomy, memory: roomy, err: errors.New("no /proc")},
	} {
		host := &capacity{
			disk:   func() (measure, error) { return c.disk, c.err },
			memory: func() (measure, error) { return c.memory, c.err },
		}
		err := host.Room(t.Context(), sandbox.Resources{})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v, want room: %v", name, err, c.ok)
		}
		if e := sandbox.AsError(err); err != nil && (e.Kind != sandbox.Unavailable || e.Code != sandbox.CodeHostFull) {
			t.Errorf("%s: %v", name, e)
		}
	}
}

func TestCapacityLooksNoMoreOftenThanItMust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks, free := 0, uint64(1<<40)
		plenty := func() (measure, error) { return measure{free, 1 << 40}, nil }
		host := &capacity{memory: plenty, disk: func() (measure, error) { looks++; return plenty() }}
		for range 10 {
			if err := host.Room(t.Context(), sandbox.Resources{}); err != nil {
				t.Fatal(err)
			}
		}
		free = 0
		time.Sleep(capacityAge)
		if err := host.Room(t.Context(), sandbox.Resources{}); err == nil || looks != 2 {
			t.Errorf("%v after %d looks, want a refusal after the second", err, looks)
		}
	})
}

func TestCapacityOfThisHost(t *testing.T) {
	if m, err := diskOf(t.TempDir()); err != nil || m.all == 0 || m.free > m.all {
		t.Errorf("disk: %+v, %v", m, err)
	}
	if m, err := memoryOfHost(); err != nil || m.free > m.all {
		t.Errorf("memory: %+v, %v", m, err)
	}
	m, err := parseMeminfo([]byte("MemTotal:       8 kB\nMemFree: 1 kB\nMemAvailable:   3 kB\nHugePages_Total:       0\n"))
	if want := (measure{free: 3 << 10, all: 8 << 10}); err != nil || m != want {
		t.Errorf("parsed %+v, %v", m, err)
	}
	if _, err := parseMeminfo(nil); err == nil {
		t.Error("an empty file was understood")
	}
}
