package main

import (
	"os"

	"github.com/spf13/cobra"
)

const defaultData = "/var/lib/silica"

// newServe reads the configuration; runServe does the rest.
func newServe(*terminal) *cobra.Command {
	var config Config
	var file string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the server (as root)",
		Long: `Run the server.

Every flag can also stand in the environment (--warm-pool as SILICA_WARM_POOL) or
in a YAML file (warm_pool), named by --config or SILICA_CONFIG, else silica.yaml
here or below /etc/silica. Flags win over the environment, that over the file.

SILICA_BOOTSTRAP_KEY=msk_... makes that the first admin key. Without it one is
made on the first start, shown once and kept in admin.key in the data folder.

Stopping the server leaves its sandboxes running; the next start takes them
over. "silica drain" empties the machine.`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				file = os.Getenv("SILICA_CONFIG")
			}
			settings, err := readSettings(file)
			if err != nil {
				return usageError{err}
			}
			if err := config.fill(c.LocalFlags(), os.Getenv, settings); err != nil {
				return usageError{err}
			}
			return runServe(c.Context(), config)
		},
	}
	c.Flags().SortFlags = false
	c.Flags().StringVar(&file, "config", "", "YAML file with settings")
	config.bind(c.Flags())
	return c
}
