// Command silica is the whole product in one file: "silica serve" runs the
// server, every other command talks to one.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// version is set by the Makefile.
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process: tests call it. The first interrupt cancels
// the command; a second one ends the process.
func run(args []string, in *os.File, out, errOut *os.File) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	term := newTerminal(in, out, errOut)
	root := newRoot(term)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return term.report(err)
}

// Exit codes beside those of commands that ran in a sandbox.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitUnreachable = 69 // EX_UNAVAILABLE: no server answers
	exitInterrupted = 130
)

// exitCode ends the program with a code and, unless text is empty, a message.
type exitCode struct {
	code int
	text string
}

func (e exitCode) Error() string { return e.text }

// usageError is a mistake on the command line.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func newRoot(t *terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "silica",
		Short: "Run code nobody vouches for, in sandboxes that are there in milliseconds",
		Long: `Silica runs code nobody vouches for in sandboxes that are there in milliseconds.

"silica serve" runs the server. The other commands talk to one:
  SILICA_URL      where it is (default ` + defaultURL + `)
  SILICA_API_KEY  the key (default: the server's own admin.key, where that is readable)

Exit codes: 0 success, 1 refused or failed, 2 wrong command line, 69 no server
answers, 130 interrupted; of "exec" and "shell" the command's own, 124 when its
time was up. With --json every answer is one JSON value, streams are one a line,
and errors are {"error":{"code",…}} on standard error.`,
		Example: `  silica serve
  id=$(silica sandbox create -q)
  silica sandbox exec $id -- python3 -c 'print(6*7)'
  silica sandbox rm $id`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // else cobra answers unknown commands itself
		RunE:          needsSubcommand,

		SuggestionsMinimumDistance: 2,
	}
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	root.SetVersionTemplate("silica {{.Version}}\n")
	root.PersistentFlags().BoolVar(&t.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		var bad *pflag.InvalidValueError
		if errors.As(err, &bad) {
			err = fmt.Errorf("--%s %q: %w", bad.GetFlag().Name, bad.GetValue(), plainly(bad.Unwrap()))
		}
		return usageError{fmt.Errorf("%w\nRun \"%s --help\" for its flags", err, c.CommandPath())}
	})
	under(root, "server", "Run a server:", newServe(t), newDoctor(t), newWait(t), newDrain(t), newBackup(t), newRestore(t), newStorage(t), newBench(t))
	under(root, "use", "Use it:", newSandbox(t), newSnapshot(t), newTemplate(t))
	under(root, "accounts", "Accounts:", newKey(t), newUser(t), newWorkspace(t), newQuota(t), newUsage(t), newCredit(t), newAudit(t), newTenant(t))
	root.AddCommand(newVersion(t), newMan(t))
	completeSandboxes(root)
	return root
}

// plainly says in words what a number's parser says about its own functions.
func plainly(err error) error {
	var number *strconv.NumError
	if errors.As(err, &number) {
		return errors.New("want a whole number")
	}
	return err
}

// needsSubcommand answers "silica sandbox" with its help, and "silica sandbox
// lst" with an error.
func needsSubcommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	text := fmt.Sprintf("%s: no command %q", c.CommandPath(), args[0])
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		// The one that begins alike is meant more often than the first by name.
		best := slices.MaxFunc(near, func(a, b string) int { return alike(a, args[0]) - alike(b, args[0]) })
		text += fmt.Sprintf("; did you mean %q?", best)
	}
	return usageError{errors.New(text + "\nRun \"" + c.CommandPath() + " --help\" for the commands there are")}
}

// alike is how many bytes two words begin with in common.
func alike(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, RunE: needsSubcommand, Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2}
	g.AddCommand(commands...)
	return g
}

// under adds commands below a heading of the help.
func under(g *cobra.Command, id, heading string, commands ...*cobra.Command) {
	g.AddGroup(&cobra.Group{ID: id, Title: heading})
	for _, c := range commands {
		c.GroupID = id
	}
	g.AddCommand(commands...)
}

// args checks the number of arguments and names them when it is wrong.
func args(min, max int) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		if len(given) >= min && (max < 0 || len(given) <= max) {
			return nil
		}
		problem := "too many arguments"
		if len(given) < min {
			problem = "an argument is missing"
		}
		return usageError{fmt.Errorf("%s\nUsage: %s", problem, c.UseLine())}
	}
}
