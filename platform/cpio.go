package platform

import (
	"fmt"
	"io"
	"path"
)

// cpioWriter writes a "newc" archive as the kernel's initramfs reads it
// (Documentation/driver-api/early-userspace/buffer-format.rst): owner root, one
// modification time, inode numbers counted up, so that equal content gives equal
// bytes. Parent directories are made as needed.
type cpioWriter struct {
	w     io.Writer
	mtime uint32
	inode uint32
	pos   int64
	dirs  map[string]bool
	err   error
}

const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
)

func newCpio(w io.Writer, epoch int64) *cpioWriter {
	return &cpioWriter{w: w, mtime: uint32(epoch), dirs: map[string]bool{".": true}}
}

// dir adds a directory, and those above it.
func (c *cpioWriter) dir(name string, perm uint32) {
	if c.dirs[name] {
		return
	}
	c.parents(name)
	c.dirs[name] = true
	c.entry(name, cpioDir|perm, 2, 0, 0, nil)
}

// file adds a regular file.
func (c *cpioWriter) file(name string, perm uint32, data []byte) {
	c.parents(name)
	c.entry(name, cpioFile|perm, 1, 0, 0, data)
}

// char adds a character device.
func (c *cpioWriter) char(name string, perm, major, minor uint32) {
	c.parents(name)
	c.entry(name, cpioChar|perm, 1, major, minor, nil)
}

// close writes the trailer and reports the first error of all.
func (c *cpioWriter) close() error {
	c.inode, c.mtime = 0, 0
	c.header("TRAILER!!!", 0, 1, 0, 0, 0)
	return c.err
}

func (c *cpioWriter) parents(name string) {
	if p := path.Dir(name); !c.dirs[p] {
		c.dir(p, 0o755)
	}
}

func (c *cpioWriter) entry(name string, mode, links, major, minor uint32, data []byte) {
	c.inode++
	c.header(name, mode, links, major, minor, uint32(len(data)))
	c.write(data)
	c.pad()
}

func (c *cpioWriter) header(name string, mode, links, major, minor, size uint32) {
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, links, c.mtime, size, 0, 0, major, minor, len(name)+1, 0, name))
	c.pad()
}

// pad aligns the next header or content to 4 bytes.
func (c *cpioWriter) pad() { c.write(make([]byte, -c.pos&3)) }

func (c *cpioWriter) write(p []byte) {
	if c.err != nil || len(p) == 0 {
		return
	}
	n, err := c.w.Write(p)
	c.pos += int64(n)
	c.err = err
}
