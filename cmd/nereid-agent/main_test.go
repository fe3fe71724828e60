package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nereid/agent"
	"nereid/api"
)

func runArgs(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, &out, io.Discard)
	return out.String(), err
}

func TestNotBooted(t *testing.T) {
	for _, args := range [][]string{{}, {"run"}} {
		_, err := runArgs(t, append(args, "--run-dir", t.TempDir())...)
		if !errors.Is(err, agent.ErrNotBooted) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestHelpFits: every help text fits a terminal of 80 columns.
func TestHelpFits(t *testing.T) {
	for _, c := range []string{"", "run", "disklayout", "sysinfo", "status", "version"} {
		out, err := runArgs(t, strings.Fields(c+" --help")...)
		if err != nil {
			t.Errorf("%s --help: %v", c, err)
		}
		for line := range strings.Lines(out) {
			if len(strings.TrimRight(line, "\n")) > 80 {
				t.Errorf("%s --help: wider than 80 columns: %s", c, line)
			}
		}
	}
}

func TestHelpHasExamples(t *testing.T) {
	for _, c := range []string{"", "run", "disklayout", "sysinfo", "status"} {
		out, err := runArgs(t, strings.Fields(c+" --help")...)
		if err != nil || !strings.Contains(out, "Examples:\n  nereid-agent ") {
			t.Errorf("%s --help: %v\n%s", c, err, out)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{{"disklayout"}, {"nonsense"}, {"run", "extra"}, {"--log-level", "loud"}, {"disklayout", "--disks", "/nonexistent"}, {"status", "--run-dir", "/nonexistent"}} {
		if _, err := runArgs(t, args...); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}

func TestStatus(t *testing.T) {
	dir := t.TempDir()
	s := agent.Status{UUID: "u1", State: "Connected", Report: api.Report{Hostname: "cn01", Problems: []string{"It is warm."}}}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "status.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runArgs(t, "status", "--run-dir", dir)
	if err != nil || !strings.Contains(out, "cn01 (u1)") || !strings.Contains(out, "problem    It is warm.") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = runArgs(t, "status", "--json", "--run-dir", dir)
	if err != nil || !strings.Contains(out, `"hostname": "cn01"`) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestDisklayout(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disks.json")
	disks := `[{"name":"sda","size_bytes":1000000000000,"solid_state":false},{"name":"sdb","size_bytes":1000000000000,"solid_state":false}]`
	if err := os.WriteFile(file, []byte(disks), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := runArgs(t, "disklayout", "--disks", file, "--layout", "mirror", "--spares", "0")
	var p api.PoolPlan
	if err != nil || json.Unmarshal([]byte(out), &p) != nil || p.Layout != "mirror" || len(p.Vdevs) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestSysinfoOfThisMachine(t *testing.T) {
	out, err := runArgs(t, "sysinfo", "--sys", "/sys", "--proc", "/proc", "--dev", "/dev")
	var s api.Sysinfo
	if err != nil || json.Unmarshal([]byte(out), &s) != nil || s.MemoryBytes == 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// The unit starts the program where the platform has it.
func TestUnit(t *testing.T) {
	b, err := os.ReadFile("../../agent/nereid-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ExecStart=/usr/lib/nereid/nereid-agent run\n", "Type=notify\n", "KillMode=process\n", "Restart=always\n", "RestartPreventExitStatus=78\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the unit lacks %q", want)
		}
	}
	if strings.Contains(string(b), "network-online") {
		t.Error("the unit waits for the network")
	}
	for line := range strings.Lines(string(b)) {
		for _, private := range []string{"Private", "Protect", "Read", "Inaccessible", "ExecPaths", "NoExec", "Root", "Bind", "Temporary", "Mount", "Dynamic", "Image", "Extension", "StateDirectory"} {
			if strings.HasPrefix(line, private) {
				t.Errorf("%s has the agent mount what nobody else sees", strings.TrimSpace(line))
			}
		}
	}
	families, err := exec.Command("grep", "-rhoE", "--include=*.go", "--exclude=*_test.go", `unix\.Socket\(unix\.AF_[A-Z0-9]+`, "../../agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, allowed, _ := strings.Cut(string(b), "\nRestrictAddressFamilies=")
	allowed, _, _ = strings.Cut(allowed, "\n")
	for family := range strings.FieldsSeq("AF_UNIX AF_INET6 " + strings.ReplaceAll(string(families), "unix.Socket(unix.", "")) {
		if !slices.Contains(strings.Fields(allowed), family) {
			t.Errorf("the agent opens sockets of %s, and its unit allows %s", family, allowed)
		}
	}
	if strings.Contains(string(b), "GOMEMLIMIT=") {
		t.Error("the unit limits the agent's memory softly, which costs most of the CPU while it compiles rules")
	}
}
