//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"text/tabwriter"
	"time"
)

// state of a cell.
type state string

const (
	cellNotRun     state = "-" // left out by -run, or by a failure before
	cellOK         state = "ok"
	cellFailed     state = "FAILED"
	cellNotOffered state = "n/o"
)

// table has a row for each pairing and a column for each check.
type table struct {
	columns []string
	rows    []*row
	spent   []time.Duration // by column
	notes   []string        // why cells were not offered
}

type row struct {
	table *table
	pairing
	cells []state
}

func newTable(checks []check) *table {
	t := &table{}
	for _, c := range checks {
		t.columns = append(t.columns, c.column)
	}
	t.spent = make([]time.Duration, len(checks))
	return t
}

func (t *table) row(p pairing) *row {
	r := &row{table: t, pairing: p, cells: slices.Repeat([]state{cellNotRun}, len(t.columns))}
	t.rows = append(t.rows, r)
	return r
}

// all fills the row.
func (r *row) all(s state, why string) {
	for i := range r.cells {
		r.cells[i] = s
	}
	if s == cellNotOffered {
		r.note(r.pairing.String() + ": " + why)
	}
}

func (r *row) note(s string) {
	if !slices.Contains(r.table.notes, s) {
		r.table.notes = append(r.table.notes, s)
	}
}

// do runs one check into its cell.
func (r *row) do(t *testing.T, column int, check func() error) {
	t.Helper()
	r.cells[column] = cellFailed // should the check end the test
	began := time.Now()
	err := check()
	r.table.spent[column] += time.Since(began)
	var no *notOffered
	switch {
	case err == nil:
		r.cells[column] = cellOK
	case errors.As(err, &no):
		r.cells[column] = cellNotOffered
		r.note(fmt.Sprintf("%v, %s: %s", r.pairing, r.table.columns[column], no.why))
	default:
		t.Errorf("%s: %v", r.table.columns[column], err)
	}
}

// progress says how a row went, for those who watch.
func (r *row) progress(took time.Duration) {
	counts := map[state]int{}
	for _, c := range r.cells {
		counts[c]++
	}
	line := r.pairing.String() + ":"
	for _, s := range []state{cellOK, cellFailed, cellNotOffered} {
		if n := counts[s]; n > 0 {
			line += fmt.Sprintf(" %d %s", n, s)
		}
	}
	fmt.Fprintf(os.Stdout, "%s (%.0f s)\n", line, took.Seconds())
}

func (t *table) count(s state) (n int) {
	for _, r := range t.rows {
		for _, c := range r.cells {
			if c == s {
				n++
			}
		}
	}
	return n
}

func (t *table) write(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "suite\tESN\touter\twindow")
	for _, c := range t.columns {
		fmt.Fprint(tw, "\t", c)
	}
	fmt.Fprintln(tw)
	for _, r := range t.rows {
		esn := "off"
		if r.esn {
			esn = "on"
		}
		fmt.Fprintf(tw, "%v\t%s\tIPv%d\t%d", r.suite, esn, r.outer, r.window)
		for _, c := range r.cells {
			fmt.Fprint(tw, "\t", c)
		}
		fmt.Fprintln(tw)
	}
	fmt.Fprint(tw, "seconds spent\t\t\t")
	for _, d := range t.spent {
		fmt.Fprintf(tw, "\t%.0f", d.Seconds())
	}
	fmt.Fprintln(tw)
	_ = tw.Flush()
	for _, n := range t.notes {
		fmt.Fprintf(w, "n/o: not offered by this kernel: %s\n", n)
	}
}
