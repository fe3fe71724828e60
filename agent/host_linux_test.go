package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestOS(t *testing.T) {
	a := OS{}.Monotonic()
	b := OS{}.Monotonic()
	if a <= 0 || b < a || b-a > time.Minute {
		t.Errorf("monotonic clock went from %s to %s", a, b)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := (OS{}).Hostname(); err != nil || got != name {
		t.Errorf("hostname %q, %v", got, err)
	}
	// A file that cannot be written leaves the kernel's name alone.
	o := OS{HostnameFile: filepath.Join(t.TempDir(), "none", "hostname")}
	if err := o.SetHostname(t.Context(), "other"); err == nil {
		t.Error("no error")
	}
	if got, err := (OS{}).Hostname(); err != nil || got != name {
		t.Errorf("hostname became %q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (OS{}).Settle(ctx); err == nil {
		t.Error("an ended context waits for devices")
	}
}
