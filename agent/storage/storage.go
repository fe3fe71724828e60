package storage

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"nereid/api"
)

// Runner runs one command to its end and returns what it printed on standard
// output. A command that ends with a failure returns an error that contains
// what it printed on standard error.
type Runner interface {
	Run(ctx context.Context, name string, args ...string) ([]byte, error)
}

// Storage is the pools of one server. Fields are set before the first call and
// not changed afterwards. Methods may be called from several goroutines; those
// that change something wait for one another.
type Storage struct {
	// UUID is the server's SMBIOS UUID; marks on disks carry it.
	UUID string
	// Runner runs zpool and zfs; nil: the system's.
	Runner Runner
	// Datasets makes datasets; nil: ZFS{}.
	Datasets Datasets
	// Root is put before every path but those given to commands: empty on a
	// running system, a folder in tests.
	Root string
	// Log gets what happened; nil discards.
	Log *slog.Logger
	// BeforeComplete, when set, is called by Setup after the datasets are there
	// and mounted and before the setup counts as complete, with the folder of
	// the config dataset: the place to store the agent's key. It may be called
	// again for the same setup.
	BeforeComplete func(ctx context.Context, configDir string) error

	change sync.Mutex // held by Import, Setup and Destroy
	hook   func(step string) error

	mu    sync.Mutex // guards what follows
	pools []poolState
	vdevs map[string][]string // paths of disks by pool
	dirs  map[string]string   // folder of the config dataset by the pool's GUID
	print string              // fingerprint the pools were read at
	read  time.Time
	valid bool
}

// Imported is what Import found.
type Imported struct {
	// System is the pool with nereid:system=on, nil when there is none or when
	// there are several.
	System *api.Pool
	// Complete is true when the system pool's setup is complete.
	Complete bool
	// SetupID is the setup that made the system pool.
	SetupID string
	// ConfigDir is the folder of the config dataset, empty when it is not mounted.
	ConfigDir string
	// Reset is true when a factory reset that had been cut short was finished
	// now: the pool is gone.
	Reset bool
	// Problems are sentences for the report: pools left alone and why.
	Problems []string
}

// ErrNoPool says that there is no system pool.
var ErrNoPool = errors.New("this server has no system pool; set it up with nereid server setup")

// SystemPool is the name of the system pool; its errors wrap ErrNoPool when there is
// none. It runs a command only when the pools changed.
func (s *Storage) SystemPool(ctx context.Context) (string, error) {
	states, err := s.states(ctx, false)
	if err != nil {
		return "", err
	}
	p, _ := s.system(states)
	if p == nil {
		return "", ErrNoPool
	}
	return p.Name, nil
}
