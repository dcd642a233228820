package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"silica.dev/silica/internal/event"
	"silica.dev/silica/internal/runtime/runtimetest"
	"silica.dev/silica/internal/server"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/internal/supervisor"
	"silica.dev/silica/sandbox"
)

// speedWorld serves a database with n live sandboxes of one tenant, and as many
// destroyed ones as say, over loopback. It returns the base URL and a key.
func speedWorld(b *testing.B, n, destroyed int) (base, key string, ids []sandbox.ID) {
	b.Helper()
	ctx := context.Background()
	rows, err := store.Open(ctx, store.Config{Path: filepath.Join(b.TempDir(), "silica.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = rows.Close() })
	tn, err := rows.CreateTenant(ctx, sandbox.Tenant{Slug: "a"})
	if err != nil {
		b.Fatal(err)
	}
	_, key, err = rows.CreateKey(ctx, sandbox.Key{Tenant: tn.ID, Name: "k"})
	if err != nil {
		b.Fatal(err)
	}
	events := event.NewLog(rows)
	rows.Announce(events.Announce)
	add := func(i int) sandbox.ID {
		at := time.Now().UTC()
		sb := sandbox.Sandbox{
			ID: sandbox.NewID(), Slug: sandbox.NewSlug(), State: sandbox.Provisioning, Tenant: tn.ID, Owner: "usr_a", Name: fmt.Sprintf("box-%d", i),
			Spec: sandbox.Spec{Template: "miosa-sandbox", Revision: "r", Image: "miosa-sandbox", Env: map[string]string{"A": "b"},
				Resources: sandbox.Resources{MilliCPU: 1000, Memory: 1024 << 20, Disk: 3072 << 20}},
			External: sandbox.External{User: "user-7"}, Timeout: 300 * time.Second,
			Metadata: map[string]any{"project": "x", "n": i}, Tags: []string{"bench"}, CreatedAt: at, UpdatedAt: at,
		}
		if _, _, err := rows.Create(ctx, sb, sandbox.CreateRequest{}, 0); err != nil {
			b.Fatal(err)
		}
		if _, err := rows.Move(ctx, sb.ID, sandbox.Provisioning, sandbox.Running, func(sb *sandbox.Sandbox) {
			sb.Ready, sb.StartedAt, sb.ReadyAt, sb.BootPath, sb.Boot = true, at, at, sandbox.BootPool, 31*time.Millisecond
		}); err != nil {
			b.Fatal(err)
		}
		return sb.ID
	}
	for i := range n {
		ids = append(ids, add(i))
	}
	for i := range destroyed {
		if _, err := rows.Move(ctx, add(i), sandbox.Running, sandbox.Destroyed, nil); err != nil {
			b.Fatal(err)
		}
	}
	super := supervisor.New(supervisor.Config{}, supervisor.Deps{Store: rows, Templates: everybodys{rows}, Driver: runtimetest.NewFake(), Events: events})
	b.Cleanup(super.Close)
	srv := server.New(server.Config{}, server.Deps{Sandboxes: super, Events: events, Accounts: rows, Templates: noTemplates{}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }()
	b.Cleanup(func() { _ = srv.Shutdown(ctx) })
	return "http://" + l.Addr().String() + "/api/v1/sandboxes", key, ids
}

type none = server.Templates

// noTemplates is asked nothing.
type noTemplates struct{ none }

func read(b *testing.B, url, key string) (bytes int64) {
	req, _ := http.NewRequest("GET", url, nil)
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	bytes, _ = io.Copy(io.Discard, res.Body)
	if res.StatusCode != 200 {
		b.Fatalf("GET %s: %d", url, res.StatusCode)
	}
	return bytes
}

func median(b *testing.B, do func()) {
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		do()
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
}

// The floor is a p50 of 15 ms.
func BenchmarkList1000(b *testing.B) {
	base, key, _ := speedWorld(b, 1000, 0)
	b.SetBytes(read(b, base, key))
	median(b, func() { read(b, base, key) })
}

// What a tenant has destroyed must not make its list slow.
func BenchmarkListBeside5000Destroyed(b *testing.B) {
	base, key, _ := speedWorld(b, 20, 5000)
	median(b, func() { read(b, base, key) })
}

// The floor is a p50 of 1 ms.
func BenchmarkGet(b *testing.B) {
	base, key, ids := speedWorld(b, 1000, 0)
	i := 0
	median(b, func() { read(b, base+"/"+string(ids[i%len(ids)]), key); i++ })
}

// The floor is 1000 a second on two cores.
func BenchmarkGets(b *testing.B) {
	base, key, ids := speedWorld(b, 1000, 0)
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 64
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			read(b, base+"/"+string(ids[i%len(ids)]), key)
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
}

// everybodys are the templates as the supervisor asks for them.
type everybodys struct{ *store.Store }

func (e everybodys) AllTemplates(ctx context.Context) ([]sandbox.Template, error) {
	return e.Templates(ctx)
}
