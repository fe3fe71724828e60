package stub

import (
	"fmt"
	"strconv"
	"strings"

	"nereid/api"
)

// running is the memory a platform needs beside its layers to start, in bytes:
// kernel objects, systemd and the agent.
const running = 192 << 20

// memory is what /proc/meminfo says, in bytes.
type memory struct{ total, available int64 }

// parseMeminfo reads proc_meminfo(5), whose values are KiB.
func parseMeminfo(s string) (memory, error) {
	var m memory
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "MemTotal:" && f[0] != "MemAvailable:" {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return m, fmt.Errorf("meminfo: %w", err)
		}
		if f[0] == "MemTotal:" {
			m.total = n << 10
		} else {
			m.available = n << 10
		}
	}
	if m.total == 0 {
		return m, fmt.Errorf("meminfo: no MemTotal in it")
	}
	return m, nil
}

// layerBytes is what the layers take in memory.
func layerBytes(layers []api.File) (n int64) {
	for _, l := range layers {
		n += l.Size
	}
	return n
}

// fits says in words when a platform does not fit into memory.
func (m memory) fits(stamp string, layers []api.File) error {
	need := layerBytes(layers)
	if m.available >= need+running {
		return nil
	}
	return problem("Platform "+stamp+" does not fit into this server's memory",
		fmt.Sprintf("its layers take %s and %s more are needed to run, but only %s of %s are free",
			mega(need), mega(running), mega(m.available), mega(m.total)),
		"add memory or assign a platform with fewer layers", nil)
}

// upper is the most the writable top of the root filesystem may take: half of
// what the layers leave.
func (m memory) upper(layers int64) int64 {
	return max((m.total-layers)/2, 16<<20)
}

// mega writes a size in kB or MB, rounded up.
func mega(n int64) string {
	if n < 1_000_000 {
		return fmt.Sprintf("%d kB", (n+999)/1000)
	}
	return fmt.Sprintf("%d MB", (n+999_999)/1_000_000)
}
