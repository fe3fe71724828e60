package storage

import (
	"context"

	"nereid/api"
)

// Content says what foreign data the disk with this kernel name carries, empty when it is blank. For sysinfo.Reader.Content.
func (s *Storage) Content(ctx context.Context, name string) (string, error) { return "", nil }

// Import imports every importable pool without mounting, finds the system pool, mounts it and finishes an interrupted reset.
func (s *Storage) Import(ctx context.Context) (Imported, error) { return Imported{}, nil }

// Pools lists the imported pools from memory; commands run only when the kernel's state changed or after five minutes.
func (s *Storage) Pools(ctx context.Context) ([]api.Pool, error) { return nil, nil }

// Setup makes the system pool as spec says, or continues to.
func (s *Storage) Setup(ctx context.Context, spec api.SetupSpec, disks []api.Disk, progress func(api.SetupReport)) error {
	return nil
}

// Destroy destroys the pool with this GUID, and no other, and clears its disks. No pool with it: nil.
func (s *Storage) Destroy(ctx context.Context, guid string) error { return nil }

// ConfigDir is the folder where the system pool's config dataset is mounted; ErrNoPool without one.
func (s *Storage) ConfigDir(ctx context.Context) (string, error) { return "", nil }

// WriteConfig replaces a file of the config dataset atomically and durably, mode 0600.
func (s *Storage) WriteConfig(ctx context.Context, name string, data []byte) error { return nil }

// ReadConfig reads a file of the config dataset; errors wrap fs.ErrNotExist when it is not there.
func (s *Storage) ReadConfig(ctx context.Context, name string) ([]byte, error) { return nil, nil }
