package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newEnv(t *terminal) *cobra.Command {
	ls := &cobra.Command{
		Use: "ls SANDBOX", Aliases: []string{"list"},
		Short: "List the names of the variables; values are never shown",
		Args:  args(1, 1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) ([]api.EnvVar, error) {
			list, err := c.Env(ctx, given[0])
			return nonNil(list), err
		}, showEnv),
	}
	rm := &cobra.Command{
		Use: "rm SANDBOX KEY...", Aliases: []string{"delete"},
		Short: "Take variables away",
		Args:  args(2, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			return each(t, given[1:], func(key string) (api.DeletedEnvVar, error) {
				return api.DeletedEnvVar{Deleted: true, Key: key, Name: key}, c.DeleteEnv(ctx, given[0], key)
			})
		}),
	}
	return group("env", "Variables of what is started in a sandbox from now on", ls, newEnvSet(t), rm)
}

func newEnvSet(t *terminal) *cobra.Command {
	var replace bool
	c := &cobra.Command{
		Use:   "set SANDBOX KEY=VALUE...",
		Short: "Set variables",
		Args:  args(2, -1),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) ([]api.EnvVar, error) {
			vars, err := pairs("variable", given[1:])
			if err != nil {
				return nil, err
			}
			change := c.SetEnv
			if replace {
				change = c.ReplaceEnv
			}
			list, err := change(ctx, given[0], vars)
			return nonNil(list), err
		}, showEnv),
	}
	c.Flags().BoolVar(&replace, "replace", false, "and take all others away")
	return c
}

func showEnv(w io.Writer, list []api.EnvVar) {
	for _, v := range list {
		fmt.Fprintln(w, v.Key)
	}
}
