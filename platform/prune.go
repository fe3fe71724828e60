package platform

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// keepUnused is how long the cache keeps what no build asks for.
const keepUnused = 30 * 24 * time.Hour

// touch notes that a file or directory of the cache was used now.
func touch(path string, now time.Time) error {
	if err := os.Chtimes(path, now, now); err != nil {
		return fmt.Errorf("note use of %s: %w", path, err)
	}
	return nil
}

// prune removes stages and package files that no build used for a month. A stage
// that another build holds is left alone.
func (s *stages) prune() error {
	now := s.now()
	for _, dir := range []string{"stages", "debs"} {
		entries, err := os.ReadDir(filepath.Join(s.cache, dir))
		if err != nil {
			return fmt.Errorf("prune cache: %w", err)
		}
		for _, e := range entries {
			fi, err := e.Info()
			if err != nil || now.Sub(fi.ModTime()) < keepUnused {
				continue // gone already, or in use
			}
			if err := s.drop(filepath.Join(s.cache, dir, e.Name())); err != nil {
				return fmt.Errorf("prune cache: %w", err)
			}
		}
	}
	return nil
}

// drop removes one entry unless a build has it locked.
func (s *stages) drop(path string) error {
	lock, err := os.OpenFile(filepath.Join(s.cache, "locks", filepath.Base(path)), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if ok, err := flock(lock.Fd()); err != nil || !ok {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.Remove(lock.Name())
}
