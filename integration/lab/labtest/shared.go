package labtest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/integration/lab"
)

// followed is how long the servers of a shared rack may take to undo what a test made.
const followed = 90 * time.Second

// Standard gives a test the standard rack, two running servers, for all that needs no
// blank one. The test owns what it makes, and undoes it in its cleanups: one that leaves
// something fails. The rack is the one in NEREID_RACK ("make vm" makes it), as soon as no
// other test has it, unless a test before left something there; otherwise the test makes
// one of its own.
func Standard(t *testing.T) *Rack {
	t.Helper()
	r := &Rack{T: t, Bin: env(t, "NEREID_BIN"), Stamp: lab.StandardStamp}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	if dir := os.Getenv("NEREID_RACK"); dir != "" {
		start := time.Now()
		release, err := lab.Turn(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(release)
		t.Logf("waited %v for the rack", time.Since(start).Round(time.Second))
		shared, err := lab.Join(dir, log)
		if err != nil {
			t.Fatal(err)
		}
		if left, err := shared.Left(t.Context(), followed/3); err == nil && len(left) == 0 {
			r.Rack = shared
			helped(t, lab.RackLog(dir))
		} else {
			t.Logf("the rack in %s is not as it was made, so this test makes one of its own: %v\n%s", dir, err, strings.Join(left, "\n"))
		}
	}
	if r.Rack == nil {
		var err error
		r.Rack, err = lab.NewStandard(t.Context(), lab.Options{Dir: filepath.Join(t.TempDir(), "rack"), Accel: Accel(t), Log: log},
			r.Bin, env(t, "NEREID_PLATFORM"), t.Output())
		if err != nil {
			t.Fatal(err)
		}
	}
	r.Platform = r.PlatformDir()
	t.Cleanup(func() {
		if left, err := r.Left(context.WithoutCancel(t.Context()), followed); err != nil || len(left) > 0 {
			t.Errorf("the test left the rack in another state: %v\n%s", err, strings.Join(left, "\n"))
		}
		if t.Failed() {
			r.dump()
		}
		if err := r.Close(); err != nil {
			t.Errorf("close the rack: %v", err)
		}
	})
	return r
}

// Undo runs the operator's program when the test ends, the last one first.
func (r *Rack) Undo(args ...string) {
	r.T.Helper()
	r.T.Cleanup(func() {
		cmd := r.Exec(context.WithoutCancel(r.T.Context()), filepath.Join(r.Bin, "nereid"), append([]string{"--server", r.Socket()}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			r.T.Errorf("nereid %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	})
}

// helped logs what the rack's process did, while a test ran, for a machine whose emulator
// failed: the test's result says so.
func helped(t *testing.T, path string) {
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			return
		}
		for line := range strings.Lines(string(now[len(before):])) {
			t.Log(strings.TrimSpace(line))
		}
	})
}
