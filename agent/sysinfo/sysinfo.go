package sysinfo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"nereid/api"
)

// Roots are where the kernel's file systems are found. Empty fields mean the
// running system's.
type Roots struct {
	Sys  string // /sys
	Proc string // /proc
	Dev  string // /dev
	Root string // /, where programs are
}

// orDefault fills empty fields; without /sys on this system that is an error.
func (r Roots) orDefault() (Roots, error) {
	if r.Sys == "" {
		if err := supported(); err != nil {
			return r, err
		}
	}
	return Roots{
		Sys:  cmp.Or(r.Sys, "/sys"),
		Proc: cmp.Or(r.Proc, "/proc"),
		Dev:  cmp.Or(r.Dev, "/dev"),
		Root: cmp.Or(r.Root, "/"),
	}, nil
}

// Reader reads a server's hardware. The zero value reads the running system and
// finds every disk blank. It may be used from several goroutines.
type Reader struct {
	Roots Roots
	// Content says what foreign data the disk with this kernel name carries;
	// empty means blank. storage.Storage.Content is one. Nil: every disk is blank.
	Content func(ctx context.Context, name string) (string, error)
	// InUse says which disks, by kernel name, are used by something /sys and /proc
	// do not tell of, and by what: "pool zones". storage.Storage.InUse is one. Nil: none.
	InUse func(ctx context.Context) map[string]string

	mu      sync.Mutex
	content map[string]contentEntry // by kernel name
	qemu    string                  // its version; empty: not asked yet
	flags   *string                 // what the processors virtualise with; nil: not read yet
	off     bool                    // the kernel said that firmware has it switched off
}

// contentEntry remembers what was found on the disk that had this sequence
// number (/sys/block/*/diskseq: a new one for every disk the kernel attaches).
type contentEntry struct {
	seq  string
	text string
}

// Read reads the hardware below roots; disks are not looked into.
func Read(ctx context.Context, roots Roots) (api.Sysinfo, error) {
	return (&Reader{Roots: roots}).Read(ctx)
}

// Read reads the hardware. What cannot be read is left empty, what a disk holds
// that cannot be looked into is reported as such; only a missing /sys and an
// ended context are errors.
func (r *Reader) Read(ctx context.Context) (api.Sysinfo, error) {
	roots, err := r.Roots.orDefault()
	if err != nil {
		return api.Sysinfo{}, fmt.Errorf("read hardware: %w", err)
	}
	t := tree{roots}
	if _, err := os.Stat(t.sys("class", "net")); err != nil {
		return api.Sysinfo{}, fmt.Errorf("read hardware: %w", err)
	}
	s := api.Sysinfo{
		UUID:         t.uuid(),
		Manufacturer: t.dmi("sys_vendor"),
		Product:      t.dmi("product_name"),
		Serial:       t.dmi("product_serial"),
		BIOSVersion:  t.dmi("bios_version"),
		Firmware:     "bios",
		MemoryBytes:  t.memory(),
		Kernel:       t.text(t.proc("sys", "kernel", "osrelease")),
		CPU:          t.cpu(),
		NICs:         t.nics(),
	}
	s.Hypervisor = r.Hypervisor(ctx)
	if _, err := os.Stat(t.sys("firmware", "efi")); err == nil {
		s.Firmware = "uefi"
	}
	if s.Disks, err = r.disks(ctx, t); err != nil {
		return api.Sysinfo{}, fmt.Errorf("read hardware: %w", err)
	}
	return s, nil
}

// Forget makes the next Read look into every disk again. Call it after
// something wrote to disks, as a setup does.
func (r *Reader) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.content = nil
}

// Digest is the SHA-256 of s as JSON, in lower-case hexadecimal. Equal hardware
// gives equal digests: Read sorts what it lists.
func Digest(s api.Sysinfo) string {
	b, err := json.Marshal(s)
	if err != nil {
		// Strings, numbers and slices of them always marshal.
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// tree reads small files below roots.
type tree struct{ Roots }

func (t tree) sys(elem ...string) string {
	return filepath.Join(append([]string{t.Sys}, elem...)...)
}

func (t tree) proc(elem ...string) string {
	return filepath.Join(append([]string{t.Proc}, elem...)...)
}

// text is a file's content without surrounding space, empty when it cannot be read.
func (t tree) text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.Trim(string(b), " \t\r\n\x00")
}

// number is a file's content as a number, 0 when it is none.
func (t tree) number(path string) int64 {
	n, err := strconv.ParseInt(t.text(path), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// names lists a folder, sorted; nothing when it cannot be read.
func (t tree) names(path string) []string {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// real is a path with all symbolic links resolved, empty when it does not exist.
func (t tree) real(path string) string {
	p, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	return p
}

func (t tree) exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// memory is MemTotal of /proc/meminfo, in bytes.
func (t tree) memory() int64 {
	for line := range strings.Lines(t.text(t.proc("meminfo"))) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0
			}
			return n * 1024
		}
	}
	return 0
}
