package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// kept is how many of the last lines of a test's output are kept, and of those of a
// failed one how many are shown again at the end.
const (
	kept  = 400
	shown = 25
)

// event is a line of "go test -json" (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of what was built
	Test       string
	Elapsed    float64
	Output     string
}

// result is a test, a package's own part when Test is empty, or a build.
type result struct {
	Package, Test string
	outcome       string // pass, fail, skip; empty: it did not end
	seconds       float64
	output        []string
	cut           int      // lines of the output that were let go
	helped        []string // what the lab did for it because an emulator failed
}

// report prints results as they come and keeps what its summary needs.
type report struct {
	tier    string
	verbose bool // print the output of all tests at once
	out     io.Writer
	results map[string]*result
	order   []*result
}

// line takes a line of the tests' output.
func (r *report) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil || e.Action == "" {
		_, _ = r.out.Write(line) // a program that printed past its test's output
		return
	}
	if e.Package == "" {
		e.Package = e.ImportPath
	}
	t := r.result(e.Package, e.Test)
	switch e.Action {
	case "output":
		r.output(t, e.Output)
	case "build-output":
		t.add(e.Output)
		fmt.Fprint(r.out, e.Output)
	case "pass", "fail", "skip", "build-fail":
		t.outcome, t.seconds = strings.TrimPrefix(e.Action, "build-"), e.Elapsed
		if t.Test != "" && t.outcome == "fail" && !r.verbose {
			fmt.Fprint(r.out, t.text(len(t.output)))
		}
		if t.Test == "" && t.outcome == "fail" {
			r.unended(t)
		}
	}
}

// output takes output of a test or of a package.
func (r *report) output(t *result, text string) {
	for _, noise := range []string{"=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME "} {
		if strings.HasPrefix(text, noise) {
			if r.verbose && noise == "=== RUN " {
				fmt.Fprint(r.out, path.Base(t.Package), ": ", text)
			}
			return
		}
	}
	t.add(text)
	if r.verbose {
		fmt.Fprint(r.out, path.Base(t.Package), ": ", text) // packages run side by side
	} else if t.Test == "" && strings.Contains(text, "\t"+t.Package) && !strings.Contains(text, "[no test files]") {
		fmt.Fprint(r.out, text)
	}
}

// unended shows the tests of a failed package that did not come to their end, and the
// package's own words: a panic, a time-out or an exit.
func (r *report) unended(pkg *result) {
	for _, t := range r.order {
		if t.Package == pkg.Package && t.Test != "" && t.outcome == "" {
			t.outcome = "fail"
			if !r.verbose {
				fmt.Fprint(r.out, t.text(len(t.output)))
			}
		}
	}
	if !r.verbose && !r.failedIn(pkg.Package) {
		fmt.Fprint(r.out, pkg.text(len(pkg.output)))
	}
}

func (r *report) failedIn(pkg string) bool {
	return slices.ContainsFunc(r.order, func(t *result) bool { return t.Package == pkg && t.Test != "" && t.outcome == "fail" })
}

func (r *report) result(pkg, test string) *result {
	key := pkg + " " + test
	t := r.results[key]
	if t == nil {
		if r.results == nil {
			r.results = map[string]*result{}
		}
		t = &result{Package: pkg, Test: test}
		r.results[key], r.order = t, append(r.order, t)
	}
	return t
}

func (t *result) add(text string) {
	if strings.Contains(text, "level=WARN") && strings.Contains(text, " machine=") {
		t.helped = append(t.helped, text)
	}
	t.output = append(t.output, text)
	if n := len(t.output) - kept; n > 0 {
		t.output, t.cut = slices.Delete(t.output, 0, n), t.cut+n
	}
}

// text is the end of a test's output.
func (t *result) text(lines int) string {
	from := max(0, len(t.output)-lines)
	text := strings.Join(t.output[from:], "")
	if n := t.cut + from; n > 0 {
		text = fmt.Sprintf("    ... %d lines before these\n", n) + text
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

// times are those of the tests, without their parts.
func (r *report) times() []timed {
	times := []timed{}
	for _, t := range r.order {
		if t.Test != "" && !strings.Contains(t.Test, "/") {
			times = append(times, timed{t.Package, t.Test, t.seconds})
		}
	}
	return times
}

// summary says what was slow, which tests were helped, and last what failed.
func (r *report) summary(took time.Duration) {
	count := map[string]int{}
	var failed []*result
	for _, t := range r.order {
		if t.Test != "" && !strings.Contains(t.Test, "/") {
			count[t.outcome]++
		}
		if t.outcome == "fail" && (t.Test != "" || !r.failedIn(t.Package)) {
			failed = append(failed, t)
		}
	}
	fmt.Fprintf(r.out, "== tier %s: %v", r.tier, took.Round(time.Second))
	for _, outcome := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(r.out, ", %d %s", count[outcome], map[string]string{"pass": "passed", "fail": "failed", "skip": "skipped", "": "without an end"}[outcome])
	}
	fmt.Fprintf(r.out, "; the slowest:\n")
	printSlowest(r.out, r.times())
	for _, t := range r.order {
		if len(t.helped) > 0 {
			fmt.Fprintf(r.out, "== HELPED, because an emulator failed: %s %s\n%s", t.Package, t.Test, strings.Join(t.helped, ""))
		}
	}
	for _, t := range failed {
		fmt.Fprintf(r.out, "== FAILED: %s %s\n%s", t.Package, t.Test, t.text(shown))
	}
}
