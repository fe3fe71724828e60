package storage

import "testing"

// TestCacheLimit: ZFS's cache has what the instances and the platform leave, within
// bounds.
func TestCacheLimit(t *testing.T) {
	const gib, mib = int64(1) << 30, int64(1) << 20
	for _, c := range []struct{ memory, sold, want int64 }{
		{memory: 64 * gib, sold: 0, want: 48 * gib},                    // nothing runs: three quarters
		{memory: 64 * gib, sold: 40 * gib, want: 24*gib - 512*mib},     // what is left
		{memory: 64 * gib, sold: 63 * gib, want: 4 * gib},              // a sixteenth stays
		{memory: 64 * gib, sold: 200 * gib, want: 4 * gib},             // given out more than once
		{memory: 2 * gib, sold: 512 * mib, want: gib},                  //
		{memory: 512 * mib, sold: 512 * mib, want: 64 * mib},           // ZFS takes no less
		{memory: 1 << 50, sold: 1 << 49, want: 1<<49 - int64(512*mib)}, // no overflow
	} {
		if got := CacheLimit(c.memory, c.sold); got != c.want {
			t.Errorf("CacheLimit(%d MiB, %d MiB) = %d MiB, want %d MiB", c.memory/mib, c.sold/mib, got/mib, c.want/mib)
		}
	}
}
