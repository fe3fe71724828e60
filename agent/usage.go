package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"nereid/api"
)

// userHZ is the unit of times in /proc/PID/stat; it is 100 on every Linux
// architecture that user space can tell (proc(5), USER_HZ).
const userHZ = 100

// usage reads what changes all the time from /proc, without starting a process.
// What cannot be read is zero.
func usage(procRoot string) api.Usage {
	var u api.Usage
	read := func(name string) []byte {
		b, err := readFile(filepath.Join(procRoot, name))
		if err != nil {
			return nil
		}
		return b
	}
	u.UptimeSeconds = firstFloat(read("uptime"))
	u.Load1 = firstFloat(read("loadavg"))
	u.MemoryFreeBytes = memAvailable(read("meminfo"))
	u.AgentRSSBytes = rss(read("self/statm"))
	u.AgentCPUSeconds = cpuSeconds(read("self/stat"))
	return u
}

func firstFloat(b []byte) float64 {
	word, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte(" "))
	f, err := strconv.ParseFloat(string(word), 64)
	if err != nil || f < 0 || f > 1e12 {
		return 0
	}
	return f
}

// memAvailable finds "MemAvailable: N kB".
func memAvailable(b []byte) int64 {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("MemAvailable:")); ok {
			f := bytes.Fields(rest)
			if len(f) == 2 {
				if n, err := strconv.ParseInt(string(f[0]), 10, 53); err == nil && n > 0 {
					return n << 10
				}
			}
		}
	}
	return 0
}

// rss is the second field of statm, in pages.
func rss(statm []byte) int64 {
	f := bytes.Fields(statm)
	if len(f) < 2 {
		return 0
	}
	n, err := strconv.ParseInt(string(f[1]), 10, 40)
	if err != nil || n < 0 {
		return 0
	}
	return n * int64(os.Getpagesize())
}

// cpuSeconds is user plus system time: fields 14 and 15 of stat, counted behind
// the command's name, which may hold anything.
func cpuSeconds(stat []byte) float64 {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0
	}
	f := bytes.Fields(stat[i+1:])
	if len(f) < 13 {
		return 0
	}
	user, err1 := strconv.ParseUint(string(f[11]), 10, 53)
	system, err2 := strconv.ParseUint(string(f[12]), 10, 53)
	if err1 != nil || err2 != nil {
		return 0
	}
	return float64(user+system) / userHZ
}

// poolStates reads the health of all imported pools from the kernel's kstats,
// as "name=STATE" in one string: cheap enough for every sync, and a difference
// says when to look closer.
func poolStates(procRoot string) string {
	names, err := filepath.Glob(filepath.Join(procRoot, "spl/kstat/zfs/*/state"))
	if err != nil {
		return ""
	}
	var s strings.Builder
	for _, n := range names {
		b, err := readFile(n)
		if err != nil {
			continue
		}
		s.WriteString(filepath.Base(filepath.Dir(n)))
		s.WriteByte('=')
		s.Write(bytes.TrimSpace(b))
		s.WriteByte(' ')
	}
	return s.String()
}
