package main

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// table is what the run found.
type table struct {
	rows  []row
	steps []steps // on a Docker engine, side by side
	ways  []way   // to a server outside, side by side
	notes []string
}

// row is one figure beside its floor. A higher ratio than the budget misses it; where more
// is better, the figure itself must reach the budget.
type row struct {
	what, runtime        string
	figure, floor, ratio string
	floorName            string
	budget, verdict      string
}

func newTable() *table { return &table{} }

func (t *table) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

// time adds a duration whose ratio to a floor has a budget; 0: none is set.
func (t *table) time(what, runtime string, got, floor samples, floorName string, budget float64) {
	r := row{what: what, runtime: runtime, figure: got.String(), floor: floor.String(), floorName: floorName}
	ratio := float64(got.median()) / float64(floor.median())
	r.ratio = fmt.Sprintf("%.2f", ratio)
	if budget > 0 {
		r.budget, r.verdict = fmt.Sprintf("≤ %.1f x", budget), verdict(ratio <= budget)
	}
	t.rows = append(t.rows, r)
}

// within adds a duration that has a budget of its own.
func (t *table) within(what, runtime string, got, floor samples, floorName string, budget time.Duration) {
	t.rows = append(t.rows, row{
		what: what, runtime: runtime, figure: got.String(), floor: floor.String(), floorName: floorName,
		ratio:  fmt.Sprintf("%.2f", float64(got.median())/float64(floor.median())),
		budget: fmt.Sprintf("≤ %.2f ms", budget.Seconds()*1000), verdict: verdict(got.median() <= budget),
	})
}

// rate adds a throughput in MB/s; budget 0: none is set.
func (t *table) rate(what, runtime string, got, floor float64, floorName string, budget float64) {
	r := row{what: what, runtime: runtime, figure: fmt.Sprintf("%.0f MB/s", got), floor: fmt.Sprintf("%.0f MB/s", floor), floorName: floorName, ratio: fmt.Sprintf("%.2f", got/floor)}
	if budget > 0 {
		r.budget, r.verdict = fmt.Sprintf("≥ %.0f MB/s", budget), verdict(got >= budget)
	}
	t.rows = append(t.rows, r)
}

// size adds an amount of memory or disk in MB; budget 0: none is set.
func (t *table) size(what, runtime string, got, budget float64) {
	r := row{what: what, runtime: runtime, figure: fmt.Sprintf("%.1f MB", got)}
	if budget > 0 {
		r.budget, r.verdict = fmt.Sprintf("≤ %.1f MB", budget), verdict(got <= budget)
	}
	t.rows = append(t.rows, r)
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "**missed**"
}

func (t *table) markdown() string {
	var b strings.Builder
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Fprintf(&b, "# Benchmark\n\n`make bench` on %d cores, Linux %s, %s. Times are medians (p95 in brackets). The floor beside each figure\nwas measured in the same run.\n\n",
		runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version())
	b.WriteString("| what | runtime | figure | floor | of | ratio | budget | |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range t.rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.what, r.runtime, r.figure, r.floor, r.floorName, r.ratio, r.budget, r.verdict)
	}
	if len(t.steps) > 0 {
		b.WriteString("\nOn one Docker engine, side by side:\n\n| by |")
		for _, name := range stepNames {
			b.WriteString(" " + name + " |")
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(stepNames)) + "\n")
		for _, by := range t.steps {
			b.WriteString("| " + by.name + " |")
			for _, name := range stepNames {
				b.WriteString(" " + by.of[name].String() + " |")
			}
			b.WriteString("\n")
		}
	}
	if len(t.ways) > 0 {
		b.WriteString("\nTo one server, by one program, side by side:\n\n| way | from | lookup | connect | GET | 500 MB down | 500 MB up |\n|---|---|---|---|---|---|---|\n")
		for _, by := range t.ways {
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %.0f MB/s | %.0f MB/s |\n", by.name, by.runtime, by.found.Lookup, by.found.Connect, by.found.Get, by.found.Download/1e6, by.found.Upload/1e6)
		}
	}
	for _, note := range t.notes {
		fmt.Fprintf(&b, "\n%s\n", note)
	}
	return b.String()
}

// samples are repeated measurements of one thing.
type samples []time.Duration

func (s samples) at(fraction float64) time.Duration {
	sorted := slices.Clone(s)
	slices.SortFunc(sorted, func(a, b time.Duration) int { return cmp.Compare(a, b) })
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*fraction))]
}

func (s samples) median() time.Duration { return s.at(0.5) }

func (s samples) String() string {
	if len(s) == 0 {
		return "-"
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("%.2f ms (%.2f)", ms(s.median()), ms(s.at(0.95)))
}
