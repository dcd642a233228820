package store

import (
	"context"
	"testing"
	"time"

	"silica.dev/silica/sandbox"
)

// running returns a sandbox of a new tenant that has come to run.
func running(t *testing.T, s *Store) sandbox.Sandbox {
	t.Helper()
	sb, _, err := s.Create(t.Context(), fresh(tenant(t, s, "a")), sandbox.CreateRequest{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if sb, err = s.Move(t.Context(), sb.ID, sandbox.Provisioning, sandbox.Running, nil); err != nil {
		t.Fatal(err)
	}
	return sb
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func TestReadingsAddUp(t *testing.T) {
	base := sandbox.Counters{CPU: ms(100), NetworkIn: 10, NetworkOut: 20}
	reading := func(cpu, in, out int64) sandbox.Reading {
		return sandbox.Reading{Base: base, Now: sandbox.Counters{CPU: ms(cpu), NetworkIn: in, NetworkOut: out}}
	}
	for _, tt := range []struct {
		name     string
		readings []sandbox.Reading
		live     *sandbox.Reading
		want     sandbox.Counters
	}{
		{"none", nil, nil, sandbox.Counters{}},
		{"what came before it ran is not counted", []sandbox.Reading{reading(150, 15, 20)}, nil, sandbox.Counters{CPU: ms(50), NetworkIn: 5}},
		{"repeated", []sandbox.Reading{reading(150, 15, 20), reading(150, 15, 20)}, nil, sandbox.Counters{CPU: ms(50), NetworkIn: 5}},
		{"growing", []sandbox.Reading{reading(150, 15, 20), reading(250, 17, 21)}, nil, sandbox.Counters{CPU: ms(150), NetworkIn: 7, NetworkOut: 1}},
		{"begun anew", []sandbox.Reading{reading(150, 15, 20), reading(30, 2, 3)}, nil, sandbox.Counters{CPU: ms(80), NetworkIn: 7, NetworkOut: 3}},
		{"live only", nil, new(reading(150, 15, 20)), sandbox.Counters{CPU: ms(50), NetworkIn: 5}},
		{"live on top", []sandbox.Reading{reading(150, 15, 20)}, new(reading(160, 16, 25)), sandbox.Counters{CPU: ms(60), NetworkIn: 6, NetworkOut: 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, s *Store) {
				sb := running(t, s)
				for _, r := range tt.readings {
					r.Sandbox, r.At = sb.ID, time.Now()
					if err := s.Measure(t.Context(), []sandbox.Reading{r}); err != nil {
						t.Fatal(err)
					}
				}
				if u, err := s.Usage(t.Context(), sb.ID, time.Now(), tt.live); err != nil || u.Counters != tt.want {
					t.Errorf("%+v, %v; want %+v", u.Counters, err, tt.want)
				}
			})
		})
	}
}

func TestRunsFollowTheState(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		sb := running(t, s)
		began := sb.UpdatedAt
		u, err := s.Usage(ctx, sb.ID, began.Add(2*time.Second), nil)
		if err != nil || u.Runtime != 2*time.Second || u.MemoryMiBMilli != 2000*(sb.Spec.Memory>>20) ||
			u.CPUTime != 2*time.Second*time.Duration(sb.Spec.MilliCPU)/1000 {
			t.Errorf("usage of what runs = %+v, %v", u, err)
		}
		if sb, err = s.Move(ctx, sb.ID, sandbox.Running, sandbox.Paused, nil); err != nil {
			t.Fatal(err)
		}
		first := sb.UpdatedAt.Sub(began)
		later := sb.UpdatedAt.Add(time.Hour)
		if u, err = s.Usage(ctx, sb.ID, later, nil); err != nil || u.Runtime != first {
			t.Errorf("paused time is not runtime: %v, %v; want %v", u.Runtime, err, first)
		}
		if _, err := s.Update(ctx, sb.ID, sandbox.Paused, nil); err != nil {
			t.Fatal(err)
		}
		if sb, err = s.Move(ctx, sb.ID, sandbox.Paused, sandbox.Running, nil); err != nil {
			t.Fatal(err)
		}
		again := sb.UpdatedAt
		// A reading of the first run that comes late is not the second's.
		late := sandbox.Reading{Sandbox: sb.ID, At: began, Now: sandbox.Counters{CPU: time.Hour}}
		if err := s.Measure(ctx, []sandbox.Reading{late}); err != nil {
			t.Fatal(err)
		}
		if err := s.EndRun(ctx, sb.ID); err != nil { // lost: nobody saw it run
			t.Fatal(err)
		}
		if sb, err = s.Move(ctx, sb.ID, sandbox.Running, sandbox.Failed, nil); err != nil {
			t.Fatal(err)
		}
		if u, err = s.Usage(ctx, sb.ID, later, nil); err != nil || u.Runtime != first {
			t.Errorf("a run that was never measured: %v, %v; want %v (it began at %v)", u.Runtime, err, first, again)
		}
		// Old runs go.
		if err := s.Prune(ctx, time.Now().Add(401*24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if u, err = s.Usage(ctx, sb.ID, later, nil); err != nil || u != (sandbox.Usage{}) {
			t.Errorf("after pruning: %+v, %v", u, err)
		}
	})
}

func TestClaimOpensARun(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		ctx := context.Background()
		m := fresh("")
		m.State = sandbox.Warm
		if err := s.AddMember(ctx, m); err != nil {
			t.Fatal(err)
		}
		if u, err := s.Usage(ctx, m.ID, time.Now().Add(time.Hour), nil); err != nil || u.Runtime != 0 {
			t.Errorf("a member of the pool has run for %v, %v", u.Runtime, err)
		}
		sb, _, err := s.Create(ctx, fresh(tenant(t, s, "a")), sandbox.CreateRequest{}, 0)
		if err != nil || sb.ID != m.ID {
			t.Fatalf("Create = %s, %v", sb.ID, err)
		}
		if u, err := s.Usage(ctx, m.ID, sb.CreatedAt.Add(time.Hour), nil); err != nil || u.Runtime != time.Hour {
			t.Errorf("once claimed it has run for %v, %v; want 1h", u.Runtime, err)
		}
	})
}
