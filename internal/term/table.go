package term

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table collects rows and prints them in aligned columns. It is not safe for
// concurrent use.
type Table struct {
	w *tabwriter.Writer
}

// NewTable starts a table with the given column heads; without heads it is a
// list of aligned fields.
func NewTable(out io.Writer, heads ...string) *Table {
	t := &Table{tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)}
	if len(heads) > 0 {
		t.Row(heads...)
	}
	return t
}

// Row adds one row. Empty last cells leave no spaces behind.
func (t *Table) Row(cells ...string) {
	for len(cells) > 0 && cells[len(cells)-1] == "" {
		cells = cells[:len(cells)-1]
	}
	// The error, if there is one, is kept by the writer and told by Flush.
	_, _ = fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

// Flush prints the table.
func (t *Table) Flush() error { return t.w.Flush() }
