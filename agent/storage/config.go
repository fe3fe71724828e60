package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// configDataset is the dataset of keys and the last spec, below the pool.
const configDataset = "config"

// ConfigDir is the folder where the system pool's config dataset is mounted;
// its errors wrap ErrNoPool when there is no system pool. It runs a command only
// when the pools changed.
func (s *Storage) ConfigDir(ctx context.Context) (string, error) {
	states, err := s.states(ctx, false)
	if err != nil {
		return "", err
	}
	p, _ := s.system(states)
	if p == nil {
		return "", ErrNoPool
	}
	s.mu.Lock()
	dir, ok := s.dirs[p.GUID]
	s.mu.Unlock()
	if ok {
		return dir, nil
	}
	if dir, err = s.configDir(ctx, p.Name); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirs = map[string]string{p.GUID: dir}
	return dir, nil
}

// WriteConfig replaces a file of the config dataset, mode 0600. The file is
// either the old or the new one whenever power goes, and the new one once
// WriteConfig has returned.
func (s *Storage) WriteConfig(ctx context.Context, name string, data []byte) error {
	dir, err := s.ConfigDir(ctx)
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, filepath.Base(name)), data)
}

// AppendConfig is Append for a file of the config dataset.
func (s *Storage) AppendConfig(ctx context.Context, name string, data []byte) error {
	dir, err := s.ConfigDir(ctx)
	if err != nil {
		return err
	}
	return Append(filepath.Join(dir, filepath.Base(name)), data)
}

// Append adds to a file that is there; what was added is there for good once Append has
// returned. Power that goes meanwhile may leave a part.
func Append(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("append to file: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("append to %s: %w", path, err)
	}
	return nil
}

// ReadConfig reads a file of the config dataset; its errors wrap fs.ErrNotExist
// when it is not there and ErrNoPool when there is no system pool.
func (s *Storage) ReadConfig(ctx context.Context, name string) ([]byte, error) {
	dir, err := s.ConfigDir(ctx)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, filepath.Base(name)))
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	return b, nil
}

// WriteFile replaces the file at path, mode 0600, atomically and durably: unlike
// an atomic rename alone, the folder is synced as well, because a key that was
// reported to the head node must be there after a power cut.
func WriteFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// consolesDataset is the dataset of what zones print, below the pool.
const consolesDataset = "consoles"

// ConsoleDir is the folder where what zones print is kept: a dataset of the system pool
// that is made when it is not there, bounded, and no place to run programs from. Its
// errors wrap ErrNoPool when there is no system pool.
func (s *Storage) ConsoleDir(ctx context.Context) (string, error) {
	pool, err := s.SystemPool(ctx)
	if err != nil {
		return "", err
	}
	name := pool + "/" + consolesDataset
	for made := false; ; made = true {
		sets, err := s.datasets(ctx, pool)
		if err != nil {
			return "", err
		}
		d := sets[name]
		switch {
		case d == nil && !made:
			_, err = s.run(ctx, "zfs", "create", "-o", "quota=8G", "-o", "exec=off", "-o", "setuid=off", "-o", "devices=off", "-o", "compression=on", name)
		case d != nil && d["mounted"] != "yes" && !made:
			_, err = s.run(ctx, "zfs", "mount", name)
		case d == nil || d["mounted"] != "yes" || !strings.HasPrefix(d["mountpoint"], "/"):
			err = fmt.Errorf("dataset %s is not mounted; run zfs mount %s and see what it says", name, name)
		default:
			return s.path(d["mountpoint"]), nil
		}
		if err != nil {
			return "", fmt.Errorf("make a place for what zones print: %w", err)
		}
	}
}
