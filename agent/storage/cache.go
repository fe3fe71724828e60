package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Of ZFS's cache, the ARC.
const (
	maxCacheFile  = "/sys/module/zfs/parameters/zfs_arc_max"
	platformBytes = 512 << 20 // what the platform, which is in memory, and the agent take
	minCacheBytes = 64 << 20  // less is refused (zfs(4), zfs_arc_max)
)

// CacheLimit is how large ZFS's cache may become, in bytes, on a server with that much
// memory of which instances may use so much together: what they and the platform leave,
// at most three quarters of memory, at least a sixteenth. The cache is not charged to
// the one that reads (cgroup v2 does not know it), so it has to fit beside all of them.
func CacheLimit(memory, sold int64) int64 {
	return max(min(memory-platformBytes-sold, memory/4*3), memory/16, minCacheBytes)
}

// FitCache bounds ZFS's cache to what instances leave that may use so many bytes of
// memory together. It may be called at any time; a cache that is larger shrinks.
func (s *Storage) FitCache(sold int64) error {
	memory, err := memoryBytes()
	if err != nil {
		return fmt.Errorf("bound ZFS's cache: %w", err)
	}
	path, limit := filepath.Join(s.Root, maxCacheFile), strconv.FormatInt(CacheLimit(memory, sold), 10)
	have, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(have)) == limit {
		return nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte(limit), 0o644)
	}
	if err != nil {
		return fmt.Errorf("bound ZFS's cache: %w", err)
	}
	s.log().Info("ZFS's cache is bounded", "bytes", limit, "instances", sold)
	return nil
}
