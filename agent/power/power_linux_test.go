package power

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// script is a systemctl that writes down what it was asked for.
func script(t *testing.T, body string) (program, log string) {
	t.Helper()
	dir := t.TempDir()
	program, log = filepath.Join(dir, "systemctl"), filepath.Join(dir, "log")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\" >>"+log+"\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return program, log
}

func TestManager(t *testing.T) {
	program, log := script(t, "exit 0")
	m := Manager{Systemctl: program}
	for _, f := range []func(context.Context, bool) error{m.Reboot, m.Shutdown} {
		for _, force := range []bool{false, true} {
			if err := f(t.Context(), force); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if want := "--no-block reboot\n--force reboot\n--no-block poweroff\n--force poweroff\n"; string(got) != want {
		t.Errorf("asked for\n%swant\n%s", got, want)
	}
}

func TestManagerRefused(t *testing.T) {
	program, _ := script(t, "echo access denied >&2; exit 1")
	err := Manager{Systemctl: program}.Reboot(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "access denied") || !strings.Contains(err.Error(), "reboot") {
		t.Errorf("error %v", err)
	}
	if err := (Manager{Systemctl: filepath.Join(t.TempDir(), "none")}).Shutdown(t.Context(), false); err == nil {
		t.Error("a missing systemctl is no error")
	}
}
