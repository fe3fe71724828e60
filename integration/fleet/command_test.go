package fleet

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"nereid/api"
	"nereid/integration/fleet/fleettest"
)

// execute is a run of the program.
func execute(ctx context.Context, out io.Writer, args []string) error {
	c := Command(func(string) string { return "" })
	c.SetArgs(args)
	c.SetOut(out)
	return c.ExecuteContext(ctx)
}

// TestRehearsal runs the program against a head node from power-on to running, has
// NICs made, and interrupts it.
func TestRehearsal(t *testing.T) {
	h := fleettest.Start(t, headnodeProgram)
	ctx, interrupt := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	keys := filepath.Join(t.TempDir(), "keys")
	go func() {
		err := execute(ctx, w, []string{"--head", h.Socket(), "--servers", "10", "--power-on-storm", "--admit", "--nics", "20", "--keys", keys})
		w.Close()
		done <- err
	}()
	var text strings.Builder
	left := 2 // of what is to be seen before the interrupt
	for lines := bufio.NewScanner(r); lines.Scan(); {
		text.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "the server knows") || strings.Contains(lines.Text(), "all 10 servers run") {
			left--
		}
		if left == 0 {
			interrupt()
		}
	}
	interrupt()
	if err := <-done; err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
	for _, want := range []string{
		`10 syncing`,
		`20 of 20 NICs made by 64 clients in .*: \d+/s`,
		`(?m)^from power-on to sync     10, p50 .*, p99 .*$`,
		`(?m)^servers told of their NIC 20, p50 .*, p99 .*$`,
		`(?m)^memory +\d+ MB, \d+ kB a server$`,
	} {
		if !regexp.MustCompile(want).MatchString(text.String()) {
			t.Errorf("the program did not print %q:\n%s", want, text.String())
		}
	}
	c := api.NewClient(h.Socket())
	defer c.Close()
	running := 0
	for v, err := range c.Servers(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if v.State == api.StateRunning && v.Sysinfo != nil && v.Sysinfo.Product == "PowerEdge R740xd" {
			running++
		}
	}
	if running != 10 {
		t.Errorf("%d of 10 servers run, as the head node sees it", running)
	}
	if fi, err := os.Stat(keys); err != nil || fi.Mode().Perm() != 0o600 || fi.Size() != 32 {
		t.Errorf("the file of keys: %v %v", fi, err)
	}
}

// TestHelp: help fits a terminal, and each example is a command that the program takes.
func TestHelp(t *testing.T) {
	c := Command(func(string) string { return "" })
	c.InitDefaultHelpFlag()
	text := c.Long + "\n\n" + c.UsageString()
	for line := range strings.SplitSeq(text, "\n") {
		if len([]rune(line)) > 80 {
			t.Errorf("%d columns: %s", len([]rune(line)), line)
		}
	}
	docs, err := os.ReadFile("../../docs/measurements.md")
	if err != nil {
		t.Fatal(err)
	}
	typed := strings.ReplaceAll(c.Example, "\\\n", "")
	for line := range strings.SplitSeq(string(docs), "\n") {
		if strings.HasPrefix(line, "    "+c.Name()) {
			typed += "\n" + line
		}
	}
	examples := 0
	for line := range strings.SplitSeq(typed, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		examples++
		if words[0] != c.Name() {
			t.Errorf("example %q: does not begin with %s", line, c.Name())
		}
		if err := Command(os.Getenv).ParseFlags(words[1:]); err != nil {
			t.Errorf("example %q: %v", line, err)
		}
	}
	if examples < 5 {
		t.Errorf("%d examples", examples)
	}
	if n := strings.Count(c.LocalFlags().FlagUsages(), "--"); n < 8 {
		t.Errorf("%d flags are described", n)
	}
}

// TestWrongFlags: what cannot be done is refused with what and why.
func TestWrongFlags(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	for _, tt := range []struct{ args, want string }{
		{"--servers 0", "want 1 to 50000"},
		{"--nics -1", "--nics -1"},
		{"--head ftp://x", "want the path of a Unix socket or https"},
		{"--token-file " + missing, "read token"},
	} {
		err := execute(t.Context(), io.Discard, strings.Fields(tt.args))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
}
