package bench

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// cited are numbers others published about their own systems on their own
// machines. They stand in a table of their own: nothing here was measured.
var cited = []struct{ who, what, value string }{
	{"MIOSA", "boot, p50", "48 ms"},
	{"MIOSA", "create to ready, p50", "156 ms"},
	{"declaw", "create to first command", "42 ms"},
	{"Daytona", "create to first command", "186 ms"},
	{"E2B", "create to first command", "491 ms"},
	{"best seen anywhere", "create to first command", "12.8 ms"},
}

// Markdown writes the report for people.
func (r Report) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Measurements\n\nMade by `silica bench` on %s, in %s.", r.Begun.Format("2 January 2006, 15:04 UTC"), r.Took.Round(time.Second))
	if r.Quick {
		b.WriteString(" **A quick run: a tenth of the rounds, not for publishing.**")
	}
	m := r.Machine
	b.WriteString("\n\n| Machine | |\n|---|---|\n")
	for _, f := range [][2]string{
		{"CPU", fmt.Sprintf("%s, %d cores", m.CPU, m.Cores)}, {"Memory", m.Memory}, {"System", m.System + ", Linux " + m.Kernel + ", cgroup " + m.Cgroup},
		{"Load before (1, 5, 15 minutes)", m.Load}, {"Silica", m.Version}, {"Go", m.Go},
	} {
		fmt.Fprintf(&b, "| %s | %s |\n", f[0], f[1])
	}
	b.WriteString("\nPercentiles are values that were seen (nearest rank). Failed ones are counted and in no other number.\n")
	for _, s := range r.Sections {
		s.markdown(&b)
	}
	b.WriteString("\n## Published by others\n\nCited, not measured: their systems, their machines, their way of counting.\n\n| Who | What | Value |\n|---|---|---|\n")
	for _, c := range cited {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.who, c.what, c.value)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s Section) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "\n## %s\n", s.Title)
	if s.Note != "" {
		fmt.Fprintf(b, "\n%s\n", s.Note)
	}
	if len(s.Rows) > 0 {
		b.WriteString("\n| | n | failed | p50 | p95 | p99 | max | goal |\n|---|---|---|---|---|---|---|---|\n")
		for _, r := range s.Rows {
			fmt.Fprintf(b, "| %s | %d | %d | %s | %s | %s | %s | %s |\n", r.What, r.N, r.Failed, ms(r.P50), ms(r.P95), ms(r.P99), ms(r.Max), r.Goal)
		}
	}
	if len(s.Facts) > 0 {
		b.WriteString("\n| | value | goal |\n|---|---|---|\n")
		for _, f := range s.Facts {
			fmt.Fprintf(b, "| %s | %s | %s |\n", f.What, f.Value, f.Goal)
		}
	}
}

func ms(d time.Duration) string {
	v := float64(d) / float64(time.Millisecond)
	if v >= 100 {
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.1f ms", v)
}
