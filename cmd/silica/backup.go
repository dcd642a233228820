package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"silica.dev/silica/internal/backup"
)

// fromEnv is a flag's default: what "silica serve" would take from the
// environment.
func fromEnv(name, standard string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return standard
}

func newBackup(t *terminal) *cobra.Command {
	var to string
	src := backup.Source{Version: version}
	c := &cobra.Command{
		Use:   "backup --to FILE",
		Short: "Put what a data folder must not lose into one file; the server may go on",
		Long: `Put what a data folder must not lose into one file: a consistent copy of the rows,
the artifacts they name (images, snapshots, files of paused sandboxes), keys. The
server may go on meanwhile. Not in it: memory and files of running sandboxes.

With PostgreSQL the rows are not in it: run pg_dump first, then this.

The file holds secrets and is readable by its owner only.`,
		Example: "  silica backup --to /backup/silica-$(date +%F).tar.zst",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if to == "" {
				return usageError{errors.New("--to FILE is missing")}
			}
			rep, err := backup.Write(c.Context(), src, to)
			if err != nil {
				return err
			}
			return t.print(rep, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %d artifacts, %s\n", to, rep.Artifacts, humanize.IBytes(uint64(rep.Bytes)))
				if n := len(rep.Missing); n > 0 {
					fmt.Fprintf(w, "%d artifacts are not in this folder: other servers on the same database have them\n", n)
				}
			})
		},
	}
	c.Flags().StringVar(&to, "to", "", "`file` to write; it appears when it is whole")
	c.Flags().StringVar(&src.Data, "data", fromEnv("SILICA_DATA", defaultData), "data folder of the server")
	c.Flags().StringVar(&src.Database, "database", fromEnv("SILICA_DATABASE", ""), "postgres:// URL of the server (default SQLite in the data folder)")
	return c
}

func newRestore(t *terminal) *cobra.Command {
	var from, data string
	c := &cobra.Command{
		Use:   "restore --from FILE --data DIR",
		Short: "Make a data folder of a backup",
		Long: `Make a data folder of a backup, whole or not at all. The folder must be empty or
absent. Every artifact is held against its digest.

Then run "silica serve --data DIR". Templates can be used at once; sandboxes that
ran become "error" and say why, paused ones start again.`,
		Args: args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if from == "" || data == "" {
				return usageError{errors.New("--from FILE and --data DIR are needed")}
			}
			rep, err := backup.Restore(c.Context(), from, data)
			if err != nil {
				return err
			}
			return t.print(rep, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %d artifacts, %s, backed up on %s\n", data, rep.Artifacts, humanize.IBytes(uint64(rep.Bytes)), rep.At.Format("2006-01-02 15:04:05 MST"))
				if rep.Database == "postgres" {
					fmt.Fprintln(w, "The rows are in PostgreSQL: restore pg_dump's file too")
				}
			})
		},
	}
	c.Flags().StringVar(&from, "from", "", "`file` that silica backup wrote")
	c.Flags().StringVar(&data, "data", fromEnv("SILICA_DATA", ""), "`folder` to make")
	return c
}
