package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/internal/term"
)

// version is stamped by the linker: -X main.version=….
var version string

type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

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
			v := versionInfo{programVersion(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if a.json {
				return term.JSON(a.stdout, v)
			}
			_, err := fmt.Fprintf(a.stdout, "walstream %s (%s, %s)\n", v.Version, v.Go, v.Platform)
			return err
		}),
	}
}
