package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRCU: the first engine switches it on, the last one off.
func TestRCU(t *testing.T) {
	dir := t.TempDir()
	r := rcu{setting: filepath.Join(dir, "setting"), shared: filepath.Join(dir, "shared")}
	if err := os.WriteFile(r.setting, []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect := func(want, when string) {
		t.Helper()
		got, err := os.ReadFile(r.setting)
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s the setting is %q (%v), want %q", when, got, err, want)
		}
	}
	log := slog.New(slog.DiscardHandler)
	for range 2 {
		first := r.expedite(log)
		expect("1", "with one engine")
		second := r.expedite(log)
		first()
		expect("1", "with the second engine left")
		second()
		expect("0", "without engines")
	}
}
