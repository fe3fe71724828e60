package sysinfo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"

	"nereid/api"
)

// Roots are where the kernel's file systems are found. Empty fields mean the
// running system's.
type Roots struct {
	Sys  string // /sys
	Proc string // /proc
	Dev  string // /dev
}

func (r Roots) orDefault() Roots {
	if r.Sys == "" {
		r.Sys = "/sys"
	}
	if r.Proc == "" {
		r.Proc = "/proc"
	}
	if r.Dev == "" {
		r.Dev = "/dev"
	}
	return r
}

// Reader reads a server's hardware. The zero value reads the running system and
// finds every disk blank. It may be used from several goroutines.
type Reader struct {
	Roots Roots
	// Content says what foreign data the disk with this kernel name carries;
	// empty means blank. storage.Storage.Content is one. Nil: every disk is blank.
	Content func(ctx context.Context, name string) (string, error)

	mu      sync.Mutex
	content map[string]contentEntry // by kernel name
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
