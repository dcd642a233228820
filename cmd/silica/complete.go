package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"silica.dev/silica/api"
)

// completeSandboxes lets the shell complete ids and names of sandboxes wherever
// a command's usage has SANDBOX first.
func completeSandboxes(c *cobra.Command) {
	_, words, _ := strings.Cut(c.Use, " ")
	words = strings.TrimPrefix(words, "[flags] ")
	several := strings.HasPrefix(words, "SANDBOX...")
	if strings.HasPrefix(words, "SANDBOX") && c.ValidArgsFunction == nil {
		c.ValidArgsFunction = func(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(given) > 0 && !several {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return sandboxNames(cmd.Context(), begun), cobra.ShellCompDirectiveNoFileComp
		}
	}
	for _, sub := range c.Commands() {
		completeSandboxes(sub)
	}
}

// patience is how long a person at the prompt waits.
const patience = 2 * time.Second

func sandboxNames(ctx context.Context, begun string) []string {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := connect()
	if err != nil {
		return nil
	}
	defer c.Close()
	list, err := c.List(ctx, api.SandboxFilter{})
	if err != nil {
		return nil // the prompt is no place for it
	}
	var names []string
	for _, sb := range list {
		if strings.HasPrefix(sb.ID, begun) {
			names = append(names, sb.ID+"\t"+strings.TrimSpace(deref(sb.Name)+" "+sb.State))
		}
		if name := deref(sb.Name); name != "" && strings.HasPrefix(name, begun) {
			names = append(names, name+"\t"+sb.ID)
		}
	}
	return names
}

func newMan(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages into a folder",
		Hidden: true,
		Args:   args(1, 1),
		RunE: func(cmd *cobra.Command, given []string) error {
			root := cmd.Root()
			root.DisableAutoGenTag = true
			root.InitDefaultCompletionCmd()
			return doc.GenManTree(root, &doc.GenManHeader{Title: "SILICA", Section: "1", Source: "silica " + version}, given[0])
		},
	}
}
