package storage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"nereid/api"

	"github.com/google/go-cmp/cmp"
)

func TestConfigFiles(t *testing.T) {
	l := newLab(t, "vdb")
	if _, err := l.ReadConfig(t.Context(), "spec.json"); !errors.Is(err, ErrNoPool) {
		t.Errorf("without a pool: %v", err)
	}
	if err := l.setup(t, api.SetupSpec{ID: testSetup}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.ReadConfig(t.Context(), "spec.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	for _, text := range []string{"one", "two"} {
		if err := l.WriteConfig(t.Context(), "spec.json", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := l.ReadConfig(t.Context(), "spec.json"); err != nil || string(b) != text {
			t.Errorf("read %q %v", b, err)
		}
	}
	dir, err := l.ConfigDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 { // agent.key, spec.json
		t.Errorf("files %v %v", files, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "spec.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
}

// TestPoolsCost: a list of pools that did not change runs no command.
func TestPoolsCost(t *testing.T) {
	l := newLab(t, "vdb")
	if pools, err := l.Pools(t.Context()); err != nil || len(pools) != 0 || len(l.Calls()) != 0 {
		t.Errorf("without pools: %v %v", pools, err)
	}
	if err := l.setup(t, api.SetupSpec{ID: testSetup}); err != nil {
		t.Fatal(err)
	}
	pools, err := l.Pools(t.Context())
	if err != nil || len(pools) != 1 || !pools[0].System || pools[0].Health != "ONLINE" || pools[0].SetupID != testSetup || pools[0].SizeBytes == 0 {
		t.Fatalf("pools %+v %v", pools, err)
	}
	l.Calls()
	for range 100 {
		if _, err := l.Pools(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.InUse(t.Context())
	}
	if c := l.Calls(); len(c) != 0 {
		t.Errorf("idle calls ran %v", c)
	}
	if err := l.SetHealth("zones", "DEGRADED"); err != nil {
		t.Fatal(err)
	}
	if pools, err = l.Pools(t.Context()); err != nil || pools[0].Health != "DEGRADED" {
		t.Errorf("after a change: %+v %v", pools, err)
	}
}

// TestPoolsHang: when zpool no longer answers, what was known is reported, with
// the health the kernel tells.
func TestPoolsHang(t *testing.T) {
	l := newLab(t, "vdb")
	if err := l.setup(t, api.SetupSpec{ID: testSetup}); err != nil {
		t.Fatal(err)
	}
	want, err := l.Pools(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetHealth("zones", "SUSPENDED"); err != nil {
		t.Fatal(err)
	}
	l.Runner = runnerFunc(func() error { return context.DeadlineExceeded })
	want[0].Health = "SUSPENDED"
	for range 2 {
		if got, err := l.Pools(t.Context()); err != nil || !cmp.Equal(want, got) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

type runnerFunc func() error

func (f runnerFunc) Run(context.Context, string, ...string) ([]byte, error) { return nil, f() }
