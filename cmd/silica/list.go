package main

import (
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newSandboxLs(t *terminal) *cobra.Command {
	var f api.SandboxFilter
	var metadata []string
	var all, quiet bool
	var limit int
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List sandboxes",
		Long: `List sandboxes, newest first. Without --limit and --page all of them are asked for,
page by page.`,
		Example: `  silica sandbox ls --state running --tag ci --metadata team=red
  silica sandbox ls -q --external-user alice
  silica sandbox ls --page 2 --page-size 50`,
		Args: args(0, 0),
	}
	c.RunE = func(cmd *cobra.Command, given []string) (err error) {
		if f.Metadata, err = pairs("--metadata", metadata); err != nil {
			return err
		}
		if all && f.State == "" {
			f.State = strings.Join([]string{api.StateProvisioning, api.StateRunning, api.StatePaused, api.StateError, api.StateDestroyed}, ",")
		}
		list := func(ctx context.Context, c *client.Client, _ []string) ([]api.Sandbox, error) {
			if f.Page > 0 || f.PageSize > 0 {
				return c.List(ctx, f)
			}
			return first(c.All(ctx, f), limit)
		}
		if quiet && !t.json {
			return talks(func(ctx context.Context, c *client.Client, given []string) error {
				found, err := list(ctx, c, given)
				if err != nil {
					return err
				}
				return ids(t, found, func(sb api.Sandbox) string { return sb.ID })
			})(cmd, given)
		}
		return asks(t, func(ctx context.Context, c *client.Client, given []string) ([]api.Sandbox, error) {
			found, err := list(ctx, c, given)
			return nonNil(found), err
		}, func(w io.Writer, found []api.Sandbox) {
			rows := make([][]string, len(found))
			for i, sb := range found {
				rows[i] = []string{sb.ID, deref(sb.Name), sb.State, sb.TemplateID, size(sb), boot(sb), age(sb.CreatedAt)}
			}
			table(w, []string{"ID", "NAME", "STATE", "TEMPLATE", "SIZE", "BOOT", "AGE"}, rows)
			if len(found) == 0 {
				t.hint("\nNone. \"silica sandbox create\" makes one.")
			}
		})(cmd, given)
	}
	fl := c.Flags()
	fl.SortFlags = false
	fl.BoolVarP(&all, "all", "a", false, "also those destroyed")
	fl.StringVar(&f.State, "state", "", "only those provisioning, running, paused, destroyed or error; or several, with commas")
	fl.StringVar(&f.Name, "name", "", "only the one of this name")
	fl.StringVarP(&f.TemplateID, "template", "t", "", "only those of this template")
	fl.StringSliceVar(&f.Tags, "tag", nil, "only those with this tag; repeatable")
	fl.StringArrayVar(&metadata, "metadata", nil, "only those with this KEY=VALUE; repeatable")
	fl.StringVar(&f.WorkspaceID, "workspace-id", "", "only those of this workspace")
	fl.StringVar(&f.ProjectID, "project-id", "", "only those of this project")
	fl.StringVar(&f.ExternalWorkspaceID, "external-workspace", "", "only those of this customer of yours")
	fl.StringVar(&f.ExternalUserID, "external-user", "", "only those of this end user of yours")
	fl.StringVar(&f.ExternalProjectID, "external-project", "", "only those of this project of yours")
	fl.IntVarP(&limit, "limit", "n", 0, "only the newest so many")
	fl.IntVar(&f.Page, "page", 0, "only this page, from 1")
	fl.IntVar(&f.PageSize, "page-size", 0, "rows of a page")
	fl.BoolVarP(&quiet, "quiet", "q", false, "print only ids")
	return c
}
