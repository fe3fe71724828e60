package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// module is a module whose packages pass, fail in every way, and do not compile.
const module = `
-- go.mod --
module example.com/m

go 1.26
-- good/good_test.go --
package good

import "testing"

func TestGood(t *testing.T) { t.Log("a word nobody needs") }
func TestParts(t *testing.T) { t.Run("part", func(t *testing.T) {}) }
func TestHelped(t *testing.T) { t.Log("time=now level=WARN msg=\"it is reset\" machine=cn1") }
func TestSkipped(t *testing.T) { t.Skip("no reason") }
-- bad/bad_test.go --
package bad

import "testing"

func TestBad(t *testing.T) {
	t.Run("part", func(t *testing.T) {
		for i := range 500 {
			t.Log("line", i)
		}
		t.Error("the fault")
	})
	t.Run("whole", func(t *testing.T) {})
}
-- panics/panics_test.go --
package panics

import "testing"

func TestPanics(t *testing.T) { panic("the panic") }
-- exits/exits_test.go --
package exits

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) { fmt.Println("the reason to exit"); os.Exit(3) }
-- broken/broken_test.go --
package broken

import "testing"

func TestBroken(t *testing.T) { notThere() }
`

func write(t *testing.T, without ...string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for _, f := range txtar.Parse([]byte(module)).Files {
		dir := filepath.Dir(f.Name)
		for _, w := range without {
			if dir == w {
				dir = ""
			}
		}
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.Name, f.Data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFailures: everything that failed is named last, with its last lines.
func TestFailures(t *testing.T) {
	write(t)
	var out bytes.Buffer
	err := run(t.Context(), []string{"run", "unit", "go", "test", "./..."}, "kept", &out)
	if err == nil {
		t.Error("no error for tests that failed")
	}
	live, end, found := strings.Cut(out.String(), "== tier unit: ")
	if !found {
		t.Fatalf("no summary:\n%s", &out)
	}
	if strings.Contains(live, "a word nobody needs") || !strings.Contains(live, "ok  \texample.com/m/good") {
		t.Errorf("while it ran it said\n%s", live)
	}
	for _, want := range []string{"the fault", "the panic", "the reason to exit", "undefined: notThere"} {
		if !strings.Contains(live, want) {
			t.Errorf("while it ran, %q was not said:\n%s", want, live)
		}
		if !strings.Contains(end, want) {
			t.Errorf("at the end, %q was not said:\n%s", want, end)
		}
	}
	if !strings.Contains(end, "== HELPED, because an emulator failed: example.com/m/good TestHelped\n    good_test.go:7: time=now level=WARN") {
		t.Errorf("the end does not say which test was helped:\n%s", end)
	}
	for _, want := range []string{"2 failed, 3 passed, 1 skipped", "== FAILED: example.com/m/bad TestBad/part\n", "== FAILED: example.com/m/panics TestPanics\n",
		"== FAILED: example.com/m/exits \n", "== FAILED: example.com/m/broken"} {
		if !strings.Contains(end, want) {
			t.Errorf("the end lacks %q:\n%s", want, end)
		}
	}
	if strings.Contains(end, "line 470") || !strings.Contains(end, "line 499") || strings.Contains(end, "TestBad/whole") {
		t.Errorf("the end is\n%s", end)
	}
}

// TestSlowest: the times of all tiers are kept, and the slowest come first.
func TestSlowest(t *testing.T) {
	write(t, "bad", "panics", "exits", "broken")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"slowest", "one", "two", "made"}, "kept", &out); err == nil {
		t.Error("slowest of nothing: no error")
	}
	for _, tier := range []string{"one", "two"} {
		if err := run(t.Context(), []string{"run", tier, "-v", "go", "test", "./..."}, "kept", &out); err != nil {
			t.Fatalf("%v\n%s", err, &out)
		}
	}
	if !strings.Contains(out.String(), "a word nobody needs") {
		t.Errorf("-v does not show a test's words:\n%s", &out)
	}
	if err := keep("kept", "made", []timed{{"p", "TestOfTwo", 2}, {"p", "TestOfThree", 3.25}}); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if err := run(t.Context(), []string{"slowest", "one", "two", "made"}, "kept", &out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "     3.2 s  p TestOfThree\n     2.0 s  p TestOfTwo\n") || strings.Count(got, "TestGood") != 2 ||
		strings.Contains(got, "part") {
		t.Errorf("slowest:\n%s", got)
	}
}

// TestMany: not more than ten are named.
func TestMany(t *testing.T) {
	var out bytes.Buffer
	printSlowest(&out, make([]timed, 30))
	if n := strings.Count(out.String(), "\n"); n != 10 {
		t.Errorf("%d tests are named: want 10", n)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"run"}, {"run", "unit"}, {"run", "unit", "-v"}, {"run", "unit", "go", "build"}, {"slowest"}, {"slowest", "none"}, {"fastest"}} {
		if err := run(t.Context(), args, t.TempDir(), &bytes.Buffer{}); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
