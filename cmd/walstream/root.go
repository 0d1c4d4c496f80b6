package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/term"
)

// app is one run of the program.
type app struct {
	stdout, stderr io.Writer
	line           []string // the arguments of the program
	environ        []string

	configFile string
	settings   map[string]*pflag.Flag // the flags that are settings, by key path
	json       bool
	quiet      bool
	verbose    bool
	debug      bool

	root *cobra.Command
	cmd  *cobra.Command // whose own code runs: what fails now is no usage error
	args []string       // of cmd
}

// run is the program: it returns the exit code.
func run(args []string, stdout, stderr io.Writer, environ []string) int {
	a := &app{stdout: stdout, stderr: term.NewScreen(stderr), line: args, environ: environ}
	a.root = a.newRoot()
	a.root.SetArgs(args)
	walGet := a.isWALGet(args)
	ctx, stop := a.interruptible(context.Background(), walGet)
	defer stop()
	return a.execute(ctx, walGet)
}

func (a *app) execute(ctx context.Context, walGet bool) (code int) {
	if walGet {
		defer func() {
			if p := recover(); p != nil { // a crash would be exit code 2: "not in the archive"
				fmt.Fprintf(a.stderr, "walstream: crash: %v\n%s", p, debug.Stack())
				code = walGetTrouble
			}
		}()
	}
	cmd, err := a.root.ExecuteContextC(ctx)
	if err != nil && a.cmd == nil {
		err = asUsage(cmd, err)
	}
	code = exitCode(ctx, err)
	if walGet {
		code = walGetCode(err)
	}
	if err != nil && code != exitDone {
		a.report(ctx, err, code)
	}
	return code
}

// isWALGet finds out beforehand whether wal-get is meant: its exit codes are
// PostgreSQL's, even when the command line cannot be understood.
func (a *app) isWALGet(args []string) bool {
	cmd, _, err := a.root.Find(args)
	if err == nil && cmd != a.root {
		return cmd.Name() == "wal-get"
	}
	return slices.Contains(args, "wal-get")
}

func (a *app) newRoot() *cobra.Command {
	root := a.group("walstream", "Keep a PostgreSQL cluster recoverable: stream its WAL, back it up, restore it")
	root.Long = `Keep a PostgreSQL cluster recoverable: stream its WAL, back it up, restore it.

The settings among the flags can be environment variables (WALSTREAM_ARCHIVE) or
stand in a configuration file too: walstream config example.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 done and found
problems, 4 the target of a restore cannot be reached, 5 another walstream has
the lock, 130 interrupted. Those of wal-get are PostgreSQL's: see its help.`
	root.Example = `  walstream receive -d 'host=db1 user=walstream' --archive /srv/walstream/archive --create-slot
  walstream backup -d 'host=db1 user=walstream' --archive /srv/walstream/archive
  walstream restore /srv/restored --archive /srv/walstream/archive --dry-run`
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	flags := root.PersistentFlags()
	flags.StringVarP(&a.configFile, "config", "c", "", "configuration file (default "+config.DefaultFile+", if it exists)")
	a.settings = map[string]*pflag.Flag{}
	a.addSettings(flags, "")
	flags.BoolVar(&a.json, "json", false, "print the result as JSON, log lines and errors too")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "log only warnings and errors")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "log more")
	flags.BoolVar(&a.debug, "debug", false, "log everything, and show where an error comes from")
	addGroup(root, "Keep WAL and backups", a.receiveCommand(), a.backupCommand(), a.pruneCommand(), a.markCommand(), a.slotCommand())
	addGroup(root, "Look at them", a.statusCommand(), a.listCommand(), a.verifyCommand())
	addGroup(root, "Restore", a.restoreCommand(), a.walGetCommand(), a.serveCommand())
	addGroup(root, "Set up", a.importCommand(), a.configCommand(), a.doctorCommand(), a.versionCommand())
	return root
}

// addGroup adds commands under a heading of their own in the help.
func addGroup(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title + ":"})
	for _, cmd := range commands {
		cmd.GroupID = title
		root.AddCommand(cmd)
	}
}

// wants checks that a command gets exactly the arguments that names lists.
func wants(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch n := len(args); {
		case n < len(names):
			return fmt.Errorf("%s is missing", names[n])
		case n > len(names):
			return fmt.Errorf("%q is one argument too many", args[len(names)])
		}
		return nil
	}
}

// addSettings defines the flags of settings: those that all commands have for
// command "", else those of one command.
func (a *app) addSettings(flags *pflag.FlagSet, command string) {
	for _, k := range config.Keys() {
		if k.Flag != "" && k.Command == command {
			flags.StringP(k.Flag, k.Short, k.Default, k.Help)
			a.settings[k.Path] = flags.Lookup(k.Flag)
		}
	}
}

// group is a command that only holds others.
func (a *app) group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, SuggestionsMinimumDistance: 2,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			err := fmt.Errorf("unknown command %q", cmd.CommandPath()+" "+args[0])
			for _, s := range cmd.SuggestionsFor(args[0]) {
				err = hint.With(err, "%s %s", cmd.CommandPath(), s)
			}
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(a.stderr)
			if err := cmd.Help(); err != nil {
				return err
			}
			return errors.New("a command is missing")
		},
	}
}

// runs makes f the body of a command.
func (a *app) runs(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.cmd, a.args = cmd, args
		return f(cmd.Context(), args)
	}
}

// configured makes f, which gets the settings, the body of a command.
func (a *app) configured(f func(ctx context.Context, c *config.Loaded, args []string) error) func(*cobra.Command, []string) error {
	return a.runs(func(ctx context.Context, args []string) error {
		c, err := a.load()
		if err != nil {
			return err
		}
		return f(ctx, c, args)
	})
}

// result prints v with --json, otherwise a text for people.
func (a *app) result(v any, format string, args ...any) error {
	if a.json {
		return term.JSON(a.stdout, v)
	}
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return err
}

// say prints to standard output what --json does not need.
func (a *app) say(format string, args ...any) error {
	if a.json {
		return nil
	}
	return a.result(nil, format, args...)
}

// load reads the settings and tells what is suspicious about them.
func (a *app) load() (*config.Loaded, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	src := config.Sources{File: a.configFile, DefaultFile: config.DefaultFile, Environ: a.environ, Dir: dir, Flags: map[string]string{}}
	for path, f := range a.settings {
		if f.Changed {
			src.Flags[path] = f.Value.String()
		}
	}
	loaded, err := config.Load(src)
	if errors.As(err, new(*config.Error)) {
		err = hint.With(err, "every key, what it means and its default: walstream config example")
	}
	if err != nil {
		return nil, err
	}
	log := a.logger(term.LogText)
	for _, w := range loaded.Warnings {
		log.Warn().Msg(w)
	}
	return loaded, nil
}

// daemonLogger is for what runs on and on: people see text, all else gets JSON.
func (a *app) daemonLogger() zerolog.Logger {
	if term.IsTerminal(a.stderr) {
		return a.logger(term.LogText)
	}
	return a.logger(term.LogJSON)
}

// logger writes to standard error, in format unless --json says JSON.
func (a *app) logger(format term.LogFormat) zerolog.Logger {
	level := zerolog.InfoLevel
	switch {
	case a.debug:
		level = zerolog.TraceLevel
	case a.verbose:
		level = zerolog.DebugLevel
	case a.quiet:
		level = zerolog.WarnLevel
	}
	if a.json {
		format = term.LogJSON
	}
	color := term.IsTerminal(a.stderr) && !slices.ContainsFunc(a.environ, func(pair string) bool {
		return pair != "NO_COLOR=" && strings.HasPrefix(pair, "NO_COLOR=") // no-color.org
	})
	return term.NewLogger(a.stderr, format, level, color)
}
