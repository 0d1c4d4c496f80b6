package main

import (
	"context"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is stamped by the linker: -X main.version=….
var version string

// programVersion falls back to what the Go tool recorded, for binaries that
// were built without the Makefile.
func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this program", Args: wants(),
		RunE: a.runs(func(context.Context, []string) error {
			v := map[string]string{"version": programVersion(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			return a.result(v, "walstream %s (%s, %s)\n", v["version"], v["go"], v["platform"])
		}),
	}
}
