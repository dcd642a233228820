package supervisor

import (
	"fmt"
	"testing"

	"silica.dev/silica/sandbox"
)

// told is the environment that the agent of a sandbox was told of last.
func (m *machine) told(id sandbox.ID) map[string]string {
	m.t.Helper()
	inits := m.fake.Agent(id).Inits()
	return inits[len(inits)-1].Env
}

func TestEnvIsDurableAndTold(t *testing.T) {
	m := newMachine(t, Config{})
	sb := m.create(m.a, sandbox.CreateRequest{Env: map[string]string{"A": "1", "BOTH": "own"}})
	set := func(ch sandbox.EnvChange) error {
		_, err := m.SetEnv(m.ctx, m.a, string(sb.ID), ch)
		return err
	}
	if err := set(sandbox.EnvChange{Set: map[string]string{"B": "2"}, Unset: []string{"A"}}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(m.told(sb.ID)); got != "map[B:2 BOTH:own FROM:template]" {
		t.Errorf("told: %s", got)
	}
	if err := set(sandbox.EnvChange{Unset: []string{"A"}}); code(err) != sandbox.CodeNotFound {
		t.Errorf("unset of what is not there = %v", err)
	}
	if err := set(sandbox.EnvChange{Set: map[string]string{"X": string(make([]byte, maxEnvBytes))}}); code(err) != sandbox.CodeValidation {
		t.Errorf("too much = %v", err)
	}
	m.restart()
	if err := set(sandbox.EnvChange{Set: map[string]string{"C": "3"}, Replace: true}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(m.told(sb.ID)); got != "map[BOTH:template C:3 FROM:template]" {
		t.Errorf("told after a restart: %s", got)
	}
	if _, err := m.SetEnv(m.ctx, m.b, string(sb.ID), sandbox.EnvChange{}); code(err) != sandbox.CodeNotFound {
		t.Errorf("another tenant's = %v", err)
	}
	if _, err := m.Destroy(m.ctx, m.a, string(sb.ID)); err != nil {
		t.Fatal(err)
	}
	if err := set(sandbox.EnvChange{Replace: true}); code(err) != sandbox.CodeNotRunning {
		t.Errorf("of a destroyed one = %v", err)
	}
}
