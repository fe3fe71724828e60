package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Destroy destroys the system pool with this GUID, and no other, and clears its
// disks, for a factory reset. When no imported pool has the GUID it does
// nothing. A reset that is cut short is finished by the next Destroy or Import.
func (s *Storage) Destroy(ctx context.Context, guid string) error {
	s.change.Lock()
	defer s.change.Unlock()
	defer s.forget()
	if _, err := s.finishWipes(ctx); err != nil {
		return err
	}
	states, err := s.states(ctx, true)
	if err != nil {
		return fmt.Errorf("destroy pool: %w", err)
	}
	for _, p := range states {
		if p.GUID != guid {
			continue
		}
		if !p.System {
			return fmt.Errorf("destroy pool: %s is not a system pool; destroy it by hand with zpool destroy %s", p.Name, p.Name)
		}
		return s.destroy(ctx, p)
	}
	return nil
}

// poolDisks are the disks that the pool has to itself, by kernel name.
func (s *Storage) poolDisks(pool string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, p := range s.vdevs[pool] {
		if disk, _ := s.diskOf(p); !slices.Contains(names, disk) {
			names = append(names, disk)
		}
	}
	return names
}

// destroy: remember on the pool that it goes, mark its disks, destroy it, wipe
// the marked disks. Up to the destruction the property brings back here, after
// it the marks do.
func (s *Storage) destroy(ctx context.Context, p poolState) error {
	if err := s.step(ctx, "remember reset"); err != nil {
		return err
	}
	if err := s.sets().Set(ctx, p.Name, map[string]string{propReset: p.GUID}); err != nil {
		return fmt.Errorf("destroy pool %s: %w", p.Name, err)
	}
	for _, name := range s.poolDisks(p.Name) {
		if err := s.step(ctx, "mark "+name); err != nil {
			return err
		}
		if err := s.markForWipe(name, p); err != nil {
			return fmt.Errorf("destroy pool %s: %w", p.Name, err)
		}
	}
	if err := s.step(ctx, "destroy pool"); err != nil {
		return err
	}
	if _, err := s.run(ctx, "zpool", "destroy", "-f", p.Name); err != nil {
		return fmt.Errorf("destroy pool %s: %w", p.Name, err)
	}
	_, err := s.finishWipes(ctx)
	return err
}

// markForWipe marks a disk that holds nothing but a part of the pool. A pool on
// partitions beside others keeps its labels, which then say that it was destroyed.
func (s *Storage) markForWipe(name string, p poolState) (err error) {
	d, err := s.open(name, marking)
	if errors.Is(err, os.ErrNotExist) {
		// A disk that was pulled: nothing to clear.
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	f, err := examine(d, d.size)
	if err != nil {
		return err
	}
	own := f.bare && len(f.labels) > 0 && !slices.ContainsFunc(f.labels, func(l zfsLabel) bool {
		return !l.auxiliary() && strconv.FormatUint(l.GUID, 10) != p.GUID
	})
	if !own {
		return nil
	}
	return d.writeMark(mark{Kind: markReset, ID: p.GUID, Server: s.UUID, Pool: p.Name})
}

// finishWipes wipes the disks that a reset of this server marked and that no
// pool uses any more, and says whether there were any.
func (s *Storage) finishWipes(ctx context.Context) (wiped bool, err error) {
	if s.UUID == "" {
		return false, nil
	}
	entries, err := os.ReadDir(s.path("sys", "block"))
	if err != nil {
		return false, fmt.Errorf("look for unfinished resets: %w", err)
	}
	var used map[string]string
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "zd") || strings.HasPrefix(name, "sr") || !s.marked(name, markReset, "") {
			continue
		}
		if used == nil {
			s.forget()
			if used = s.InUse(ctx); used == nil {
				return wiped, errors.New("finish reset: the disks in use cannot be listed")
			}
		}
		if used[name] != "" {
			continue
		}
		if err := s.step(ctx, "wipe "+name); err != nil {
			return wiped, err
		}
		done, err := s.finishWipe(name)
		if err != nil {
			return wiped, fmt.Errorf("finish reset: %w", err)
		}
		wiped = wiped || done
	}
	return wiped, nil
}

// marked reports whether the disk carries a mark of this kind and this server,
// for this pool when it is named. A disk that cannot be read carries none.
func (s *Storage) marked(name, kind, pool string) bool {
	d, err := s.open(name, reading)
	if err != nil {
		return false
	}
	defer d.Close()
	b := make([]byte, markSize)
	if d.size < MinDiskBytes || readAt(d, b, markOffset) != nil {
		return false
	}
	m, err := decodeMark(b)
	return err == nil && m.Kind == kind && m.Server == s.UUID && (pool == "" || m.Pool == pool)
}

// finishWipe wipes a marked disk, when nothing but the destroyed pool is on it.
// A pool that was not destroyed after all is imported again and comes back to
// destroy by its property; its disk is left alone here.
func (s *Storage) finishWipe(name string) (done bool, err error) {
	d, err := s.open(name, exclusive)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	f, err := examine(d, d.size)
	if err != nil {
		return false, err
	}
	if !f.leftover(s.UUID) || f.mark.Kind != markReset || slices.ContainsFunc(f.labels, func(l zfsLabel) bool { return !l.auxiliary() && l.State != stateDestroyed }) {
		return false, nil
	}
	if err := d.wipe(f); err != nil {
		return false, err
	}
	if err := d.clearMark(s.UUID); err != nil {
		return false, err
	}
	d.reread()
	return true, nil
}
