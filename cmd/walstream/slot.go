package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/walstream/walstream/internal/config"
	"github.com/walstream/walstream/internal/hint"
	"github.com/walstream/walstream/internal/pg"
	"github.com/walstream/walstream/internal/term"
	"github.com/walstream/walstream/receiver"
)

func (a *app) slotCommand() *cobra.Command {
	cmd := a.group("slot", "Show, create or drop the replication slot that keeps WAL until it is archived")
	for _, verb := range []struct {
		name, short string
		do          func(context.Context, receiver.Slot) error
	}{
		{"show", "Show the slot; exit code 3 when it keeps nothing", a.slotShow},
		{"create", "Make the slot, keeping WAL from the last checkpoint on", a.slotCreate},
		{"drop", "Remove the slot from all hosts: they then no longer keep WAL that is not archived", a.slotDrop},
	} {
		cmd.AddCommand(&cobra.Command{
			Use: verb.name, Short: verb.short, Args: wants(),
			RunE: a.configured(func(ctx context.Context, c *config.Loaded, _ []string) error {
				return verb.do(ctx, receiver.Slot{Options: server(c, "slot"), Name: c.Slot})
			}),
		})
	}
	return cmd
}

func (a *app) slotShow(ctx context.Context, slot receiver.Slot) error {
	state, err := slot.Show(ctx)
	if err != nil {
		return err
	}
	if err := a.printSlot(state); err != nil {
		return err
	}
	if state.Holds() {
		return nil
	}
	what := "keeps no WAL"
	if !state.Exists {
		what = "does not exist"
	}
	return hint.With(&problemsError{fmt.Sprintf("slot %q %s", slot.Name, what)}, "walstream slot create --slot %s", slot.Name)
}

func (a *app) printSlot(state receiver.SlotState) error {
	if a.json {
		return term.JSON(a.stdout, state)
	}
	table := term.NewTable(a.stdout)
	table.Row("slot", state.Name)
	if state.Exists {
		keeps := "nothing"
		if state.Holds() {
			keeps = "WAL from " + state.RestartLSN.String() + " on"
		}
		table.Row("keeps", keeps)
		table.Row("wal_status", orUnknown(state.WALStatus))
	} else {
		table.Row("state", "does not exist")
	}
	return table.Flush()
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func (a *app) slotCreate(ctx context.Context, slot receiver.Slot) error {
	created, err := slot.Create(ctx)
	if err != nil {
		return err
	}
	what := "exists already"
	if created {
		what = "created"
	}
	return a.result(map[string]any{"name": slot.Name, "created": created}, "slot %s: %s\n", slot.Name, what)
}

// slotDrop removes the slot from all hosts: receive keeps it on the standbys
// too.
func (a *app) slotDrop(ctx context.Context, slot receiver.Slot) error {
	hosts, err := slot.Options.Hosts()
	if err != nil {
		return err
	}
	dropped := 0
	for _, o := range hosts {
		o.AllowStandby = len(hosts) > 1
		switch oneErr := (receiver.Slot{Options: o, Name: slot.Name}).Drop(ctx); pg.Code(oneErr) {
		case pg.CodeUndefinedObject: // one host may lack it
		case pg.CodeObjectInUse:
			err = errors.Join(err, hint.With(fmt.Errorf("slot %q is in use: %w", slot.Name, oneErr),
				"end the connection that uses it: SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s;", pg.QuoteLiteral(slot.Name)))
		default:
			err = errors.Join(err, oneErr)
			if oneErr == nil {
				dropped++
			}
		}
	}
	if err == nil && dropped == 0 {
		err = fmt.Errorf("slot %q does not exist", slot.Name)
	}
	if err != nil {
		return err
	}
	return a.result(map[string]any{"name": slot.Name, "dropped": true}, "slot %s: dropped\n", slot.Name)
}
