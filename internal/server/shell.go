package server

import (
	"context"
	"iter"
	"slices"
	"strings"

	"silica.dev/silica/internal/guest"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// shells are tried in this order: users expect bash, and not every image has it.
var shells = []string{"/bin/bash", "/bin/sh"}

// runCommand runs a command as a shell would: without one where it only names a
// program and plain words, else with the first shell there is. An agent says
// of a program that could not be run that it started as process 0.
func runCommand(ctx context.Context, g *guest.Client, x *execution) iter.Seq2[*guestpb.ProcessEvent, error] {
	ways := ways(x.command, x.req.Env, x.sb.Spec.Env)
	return func(yield func(*guestpb.ProcessEvent, error) bool) {
		for i, args := range ways {
			x.req.Args = args
			begun, missing := false, false
			for ev, err := range g.Start(ctx, x.req) {
				if !begun && i+1 < len(ways) && (err != nil && absent(err) || err == nil && neverRan(ev)) {
					missing = true
					break
				}
				begun = true
				if !yield(ev, err) {
					return
				}
			}
			if !missing {
				return
			}
		}
	}
}

// ways lists the arguments to try one after the other, with the command's own
// environment and the sandbox's.
func ways(command string, envs ...map[string]string) (list [][]string) {
	if words, ok := plainWords(command); ok && !slices.ContainsFunc(envs, bashIsTold) {
		list = append(list, words)
	}
	for _, shell := range shells {
		list = append(list, []string{shell, "-c", command})
	}
	return list
}

func neverRan(ev *guestpb.ProcessEvent) bool {
	started := ev.GetStarted()
	return started != nil && started.Pid == 0
}

func absent(err error) bool {
	return sandbox.HasCode(err, sandbox.CodeFileNotFound) || sandbox.HasCode(err, sandbox.CodeNotFound)
}

// plainWords takes apart a command in which a shell would find nothing to do but
// to run the program it names: bash then execs it without a fork, and starting
// bash first is half of what such a command costs. What can't be run this way
// is tried again with a shell, so errors are the shell's own.
func plainWords(command string) ([]string, bool) {
	for i := range len(command) {
		if c := command[i]; !plainByte[c] {
			return nil, false
		}
	}
	words := strings.Fields(command)
	if len(words) == 0 || strings.Contains(words[0], "=") || shellWords[words[0]] {
		return nil, false
	}
	return words, true
}

// plainByte tells which bytes mean only themselves to every shell.
var plainByte = func() (plain [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _./:=@,+-") {
		plain[c] = true
	}
	return plain
}()

// shellWords are the keywords and builtins of bash, but for true and false,
// which do the same as programs.
var shellWords = func() map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(`
		case coproc do done elif else esac fi for function if in select then until while time
		. : alias bg bind break builtin caller cd command compgen complete compopt continue declare dirs disown
		echo enable eval exec exit export fc fg getopts hash help history jobs kill let local logout mapfile
		popd printf pushd pwd read readarray readonly return set shift shopt source suspend test times trap type
		typeset ulimit umask unalias unset wait`) {
		set[w] = true
	}
	return set
}()

// bashIsTold says whether env could make bash run something of its own first:
// BASH_ENV, or exported functions that shadow programs.
func bashIsTold(env map[string]string) bool {
	for k := range env {
		if strings.HasPrefix(k, "BASH") {
			return true
		}
	}
	return false
}
