package server

import (
	"context"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"silica.dev/silica/internal/telemetry"
	"silica.dev/silica/sandbox"
)

// every exposed series, by name, with the labels it has.
func everySeries(t *testing.T) map[string]map[string]bool {
	t.Helper()
	m := telemetry.New("v")
	m.Watch(telemetry.Look{
		States: func(context.Context) (map[sandbox.State]int, error) { return nil, nil },
		Held:   func(context.Context) (int, error) { return 0, nil },
		Ready:  func() bool { return true }, Building: func() bool { return false },
	})
	w, _, base := serveWorldWith(t, Config{}, func(d *Deps) { d.Registry = m.Registry })
	w.agent.on("c", ok)
	request(t, "POST", base+"/api/v1/sandboxes/"+create(t, base, `{}`)+"/exec", `{"command":"c"}`).want(t, 200, "")
	m.Committed(time.Millisecond, 1, nil)
	families, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]map[string]bool{}
	for _, f := range families {
		labels := map[string]bool{"job": true, "instance": true, "le": true}
		for _, metric := range f.Metric {
			for _, l := range metric.Label {
				labels[l.GetName()] = true
			}
		}
		names := []string{f.GetName()}
		if f.GetType().String() == "HISTOGRAM" {
			names = []string{f.GetName() + "_bucket", f.GetName() + "_count", f.GetName() + "_sum"}
		}
		for _, name := range names {
			series[name] = labels
		}
	}
	return series
}

var (
	seriesName = regexp.MustCompile(`\b(silica|go|process)_[a-z_]+\b`)
	selector   = regexp.MustCompile(`\b((?:silica|go|process)_[a-z_]+)\{([^}]*)\}`)
	labelName  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
)

// checkQuery holds a PromQL expression against what is exposed.
func checkQuery(t *testing.T, where, query string, series map[string]map[string]bool) {
	t.Helper()
	names := seriesName.FindAllString(query, -1)
	if len(names) == 0 && !strings.HasPrefix(query, "up{") {
		t.Errorf("%s shows nothing of ours: %s", where, query)
	}
	for _, name := range names {
		if series[name] == nil {
			t.Errorf("%s: nobody exposes %s", where, name)
		}
	}
	for _, s := range selector.FindAllStringSubmatch(query, -1) {
		for _, l := range labelName.FindAllStringSubmatch(s[2], -1) {
			if !series[s[1]][l[1]] {
				t.Errorf("%s: %s has no label %s", where, s[1], l[1])
			}
		}
	}
	if strings.Count(query, "(") != strings.Count(query, ")") || strings.Count(query, "{") != strings.Count(query, "}") {
		t.Errorf("%s: brackets do not match: %s", where, query)
	}
}

// Every panel of the dashboard and every alert asks for what is there.
func TestDashboardAndAlertsAskForWhatIsExposed(t *testing.T) {
	series := everySeries(t)
	raw, err := os.ReadFile("../../deploy/grafana/silica.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title  string
		Panels []struct {
			ID      int
			Type    string
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q: twice, or empty", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			checkQuery(t, "panel "+p.Title, target.Expr, series)
			for _, name := range seriesName.FindAllString(target.Expr, -1) {
				shown[name] = true
			}
		}
	}
	for name := range series {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count"), "_sum")
		if strings.HasPrefix(name, "silica_") && name != "silica_build_info" && !shown[base] && !shown[base+"_bucket"] && !shown[base+"_count"] {
			t.Errorf("no panel shows %s", name)
		}
	}
	raw, err = os.ReadFile("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(raw, &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			checkQuery(t, r.Alert, r.Expr, series)
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
				t.Errorf("%s has no severity or summary", r.Alert)
			}
		}
	}
}

// What callers make up never becomes a label: the fuzz of all routes may not add
// a series for each of its words.
func TestMetricsStayFew(t *testing.T) {
	reg := prometheus.NewRegistry()
	_, _, base := serveWorldWith(t, Config{}, func(d *Deps) { d.Registry = reg })
	for _, path := range []string{"/x", "/y/z", "/api/v1/sandboxes/a", "/api/v1/sandboxes/b", "/api/v1/nothing"} {
		request(t, "GET", base+path, "")
		request(t, "BREW", base+path, "")
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "silica_http_requests_total" && len(f.Metric) > 6 {
			t.Errorf("%d series of %s: %v", len(f.Metric), f.GetName(), f.Metric)
		}
	}
}
