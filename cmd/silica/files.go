package main

import (
	"context"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

func newFiles(t *terminal) *cobra.Command {
	g := group("files", "List, read, change, search and watch the files of a sandbox",
		newFilesLs(t), newFilesCat(t), newFilesRm(t), newFilesMkdir(t), newFilesMv(t), newFilesFind(t), newFilesGrep(t), newFilesWatch(t))
	g.Aliases = []string{"file"}
	return g
}

func newFilesLs(t *terminal) *cobra.Command {
	var depth int
	c := &cobra.Command{
		Use: "ls SANDBOX [PATH]", Aliases: []string{"list"},
		Short: "List a folder",
		Args:  args(1, 2),
		RunE: lists(t, []string{"MODE", "OWNER", "SIZE", "MODIFIED", "NAME"},
			func(ctx context.Context, c *client.Client, given []string) ([]api.FileEntry, error) {
				return c.ListFilesDeep(ctx, given[0], folder(given), depth)
			}, fileRow),
	}
	c.Flags().IntVar(&depth, "depth", 1, "levels of folders")
	return c
}

// folder is the path that was given after the sandbox, or the workspace.
func folder(given []string) string {
	if len(given) > 1 {
		return given[1]
	}
	return "/workspace"
}

func fileRow(e api.FileEntry) []string {
	name, size := shown(e.Path), humanize.IBytes(uint64(max(e.Size, 0)))
	switch {
	case e.IsDir:
		name, size = name+"/", ""
	case e.SymlinkTarget != nil:
		name += " -> " + shown(*e.SymlinkTarget)
	}
	return []string{e.Mode, fmt.Sprintf("%d:%d", e.UID, e.GID), size, when(&e.ModifiedAt), name}
}

func newFilesCat(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "cat SANDBOX PATH...",
		Short: "Print files",
		Args:  args(2, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			for _, name := range given[1:] {
				f, err := c.Download(ctx, given[0], name)
				if err != nil {
					return err
				}
				_, err = io.Copy(t.out, f)
				f.Close()
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			return nil
		}),
	}
}

func newFilesRm(t *terminal) *cobra.Command {
	var recursive bool
	c := &cobra.Command{
		Use: "rm SANDBOX PATH...", Aliases: []string{"delete"},
		Short: "Delete files and empty folders; -r all folders",
		Args:  args(2, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			return each(t, given[1:], func(name string) (api.FileDeleted, error) {
				return api.FileDeleted{SandboxID: given[0], Path: name, Deleted: true}, c.RemoveFile(ctx, given[0], name, recursive)
			})
		}),
	}
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "with all that is in it")
	return c
}

func newFilesMkdir(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "mkdir SANDBOX PATH...",
		Short: "Make folders, and those they are in",
		Args:  args(2, -1),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			return each(t, given[1:], func(name string) (*api.FileEntry, error) {
				return c.MakeFolder(ctx, given[0], api.MakeFolder{Path: name})
			})
		}),
	}
}

func newFilesMv(t *terminal) *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use: "mv SANDBOX FROM TO", Aliases: []string{"move"},
		Short: "Rename or move a file or folder",
		Args:  args(3, 3),
		RunE: asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.FileEntry, error) {
			overwrite := !keep
			to := given[2]
			if e, err := c.Stat(ctx, given[0], to); strings.HasSuffix(to, "/") || err == nil && e.IsDir {
				to = path.Join(to, path.Base(given[1]))
			}
			return c.MoveFile(ctx, given[0], api.MoveFile{From: given[1], To: to, Overwrite: &overwrite})
		}, func(w io.Writer, e *api.FileEntry) { fmt.Fprintln(w, shown(e.Path)) }),
	}
	c.Flags().BoolVarP(&keep, "no-clobber", "n", false, "fail rather than replace a file")
	return c
}

func newFilesFind(t *terminal) *cobra.Command {
	var f api.GlobFilter
	c := &cobra.Command{
		Use:     "find SANDBOX [PATH]",
		Short:   "Find files and folders by pattern",
		Example: "  silica sandbox files find $id /srv --pattern '**/*.py'",
		Args:    args(1, 2),
	}
	c.RunE = func(cmd *cobra.Command, given []string) error {
		f.Path = folder(given)
		if f.Pattern == "" && f.Name == "" {
			f.Pattern = "**"
		}
		return asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.FilesFound, error) {
			return c.Glob(ctx, given[0], f)
		}, func(w io.Writer, found *api.FilesFound) {
			for _, e := range found.Entries {
				fmt.Fprintln(w, shown(e.Path))
			}
			t.incomplete(found.Truncated, found.TimedOut)
		})(cmd, given)
	}
	fl := c.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.Pattern, "pattern", "", "path below the folder, with ** for any number of folders")
	fl.StringVar(&f.Name, "name", "", "pattern for the name alone")
	fl.StringVar(&f.Type, "type", "", "file, directory or symlink")
	fl.IntVar(&f.MaxResults, "max", 0, "stop after this many (default 1000, at most 10000)")
	fl.BoolVarP(&f.All, "all", "a", false, "into .git too")
	return c
}

func newFilesGrep(t *terminal) *cobra.Command {
	var req api.SearchRequest
	var fixed, ignoreCase bool
	c := &cobra.Command{
		Use:     "grep SANDBOX EXPRESSION [PATH]",
		Short:   "Find lines in files by a regular expression",
		Example: "  silica sandbox files grep $id 'def \\w+' /srv --include '*.py'",
		Args:    args(2, 3),
	}
	c.RunE = func(cmd *cobra.Command, given []string) error {
		regex, sensitive := !fixed, !ignoreCase
		req.Query, req.Regex, req.CaseSensitive, req.Path = given[1], &regex, &sensitive, folder(given[1:])
		return asks(t, func(ctx context.Context, c *client.Client, given []string) (*api.SearchResult, error) {
			return c.Search(ctx, given[0], req)
		}, func(w io.Writer, r *api.SearchResult) {
			for _, m := range r.Matches {
				for i, text := range m.Before {
					fmt.Fprintf(w, "%s-%d-%s\n", shown(m.Path), int(m.Line)-len(m.Before)+i, shown(text))
				}
				fmt.Fprintf(w, "%s:%d:%s\n", shown(m.Path), m.Line, shown(m.Text))
				for i, text := range m.After {
					fmt.Fprintf(w, "%s-%d-%s\n", shown(m.Path), int(m.Line)+1+i, shown(text))
				}
			}
			t.incomplete(r.Truncated, r.TimedOut)
		})(cmd, given)
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVarP(&fixed, "fixed", "F", false, "the expression is plain text")
	f.BoolVarP(&ignoreCase, "ignore-case", "i", false, "A is a")
	f.IntVarP(&req.Context, "context", "C", 0, "lines around each")
	f.StringSliceVar(&req.Include, "include", nil, "only files like this; repeatable")
	f.StringSliceVar(&req.Exclude, "exclude", nil, "no files and folders like this; repeatable")
	f.IntVar(&req.MaxResults, "max", 0, "stop after this many (default 1000, at most 10000)")
	f.BoolVarP(&req.All, "all", "a", false, "binary files and .git too")
	return c
}

// incomplete says on the error stream that there is more than was printed.
func (t *terminal) incomplete(truncated, timedOut bool) {
	switch {
	case timedOut:
		fmt.Fprintln(t.err, "silica: time ran out, there may be more")
	case truncated:
		fmt.Fprintln(t.err, "silica: there is more; --max shows more of it")
	}
}

func newFilesWatch(t *terminal) *cobra.Command {
	var flat bool
	c := &cobra.Command{
		Use:   "watch SANDBOX [PATH]",
		Short: "Print what changes in a folder and those below it",
		Args:  args(1, 2),
		RunE: talks(func(ctx context.Context, c *client.Client, given []string) error {
			for ch, err := range c.Watch(ctx, given[0], folder(given), !flat) {
				if err != nil {
					return err
				}
				err = t.line(ch, func(w io.Writer) {
					text := fmt.Sprintf("%-8s %s", ch.Type, shown(ch.Path))
					if ch.OldPath != nil {
						text = fmt.Sprintf("%-8s %s -> %s", ch.Type, shown(*ch.OldPath), shown(ch.Path))
					}
					fmt.Fprintln(w, text)
				})
				if err != nil {
					return err
				}
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&flat, "flat", false, "not the folders below it")
	return c
}

// shown makes a text from inside a sandbox harmless to a terminal: what is not
// printable is quoted as Go does.
func shown(s string) string {
	for _, r := range s {
		if !strconv.IsPrint(r) && r != '\t' {
			return strings.Trim(strconv.Quote(s), `"`)
		}
	}
	return s
}
