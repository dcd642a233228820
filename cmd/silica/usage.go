package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func bindUsage(f *pflag.FlagSet, u *api.UsageFilter) {
	f.SortFlags = false
	f.StringVar(&u.Period, "period", "", "hour, day, week, month, or a month like 2030-01 (default the server's)")
	f.StringVar(&u.From, "from", "", "a time or a day, instead")
	f.StringVar(&u.To, "to", "", "its end")
	f.StringVar(&u.WorkspaceID, "workspace-id", "", "only of this workspace")
	f.StringVar(&u.ProjectID, "project-id", "", "only of this project")
	f.StringVar(&u.ExternalWorkspaceID, "external-workspace", "", "only of this customer of yours")
	f.StringVar(&u.ExternalUserID, "external-user", "", "only of this end user of yours")
	f.StringVar(&u.ExternalProjectID, "external-project", "", "only of this project of yours")
}

func newUsage(t *terminal) *cobra.Command {
	return group("usage", "Tell what sandboxes used", newUsageReport(t), newUsageSummary(t), newUsageSessions(t))
}

func newUsageReport(t *terminal) *cobra.Command {
	var f api.UsageFilter
	c := &cobra.Command{
		Use:     "report",
		Short:   "What was used, by workspace, project, customer, user or day",
		Example: "  silica usage report --by external_user_id --period 2030-01",
		Args:    args(0, 0),
		RunE: asks(t, func(ctx context.Context, c *client.Client, _ []string) (*api.UsageReport, error) {
			return c.UsageReport(ctx, f)
		}, func(w io.Writer, r *api.UsageReport) {
			rows := make([][]string, len(r.Results))
			for i, u := range r.Results {
				rows[i] = []string{groupOf(u), span(u.SandboxSeconds), fmt.Sprintf("%.1fs", u.ActiveCPUSeconds), fmt.Sprintf("%.2f", u.StorageGBHours),
					bytesOf(u.NetworkInBytes), bytesOf(u.NetworkOutBytes), fmt.Sprint(u.Sessions), fmt.Sprintf("%.2f", float64(u.CreditCents)/100)}
			}
			table(w, []string{strings.ToUpper(r.GroupBy), "RUNTIME", "CPU", "GB-HOURS", "IN", "OUT", "SESSIONS", "CREDITS"}, rows)
		}),
	}
	bindUsage(c.Flags(), &f)
	c.Flags().StringVar(&f.GroupBy, "by", "", "workspace_id, project_id, external_workspace_id, external_user_id, external_project_id or day")
	return c
}

// groupOf is the one of a result's names that is not empty.
func groupOf(u api.UsageResult) string {
	for _, name := range []string{u.Date, u.ExternalUserID, u.ExternalProjectID, u.ExternalWorkspaceID, u.ProjectID, u.WorkspaceID} {
		if name != "" {
			return name
		}
	}
	return ""
}

func span(seconds int64) string { return (time.Duration(seconds) * time.Second).String() }

func bytesOf(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

func newUsageSummary(t *terminal) *cobra.Command {
	var f api.UsageFilter
	c := &cobra.Command{
		Use:   "summary",
		Short: "What was used in all",
		Args:  args(0, 0),
		RunE: asks(t, func(ctx context.Context, c *client.Client, _ []string) (*api.UsageSummary, error) {
			return c.UsageSummary(ctx, f)
		}, func(w io.Writer, s *api.UsageSummary) {
			fields(w, [][2]string{{"from", when(&s.PeriodStart)}, {"to", when(&s.PeriodEnd)}, {"compute", fmt.Sprintf("%.2f hours", s.ComputeHours)},
				{"storage", fmt.Sprintf("%.2f GB", s.StorageGB)}, {"bandwidth", fmt.Sprintf("%.2f GB", s.BandwidthGB)}, {"credits", fmt.Sprint(s.TotalCredits)}})
		}),
	}
	bindUsage(c.Flags(), &f)
	return c
}

func newUsageSessions(t *terminal) *cobra.Command {
	var f api.UsageFilter
	var most int
	c := &cobra.Command{
		Use:   "sessions",
		Short: "The stretches in which sandboxes ran, newest first",
		Args:  args(0, 0),
		RunE: lists(t, []string{"SANDBOX", "STARTED", "ENDED", "RUNTIME", "CPU", "IN", "OUT", "USER"},
			func(ctx context.Context, c *client.Client, _ []string) ([]api.UsageSession, error) {
				return first(c.UsageSessions(ctx, f), most)
			},
			func(s api.UsageSession) []string {
				return []string{s.SandboxID, when(&s.StartedAt), when(s.EndedAt), span(s.DurationSeconds),
					(time.Duration(s.CPUMillis) * time.Millisecond).String(), bytesOf(s.NetworkInBytes), bytesOf(s.NetworkOutBytes), s.ExternalUserID}
			}),
	}
	bindUsage(c.Flags(), &f)
	c.Flags().IntVarP(&most, "limit", "n", 100, "so many; 0 is all")
	return c
}
