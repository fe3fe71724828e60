package storage

import "golang.org/x/sys/unix"

// supported reports whether pools can be driven here.
func supported() error { return nil }

// reread makes the kernel look at the partition table again. It is a courtesy
// to what lists partitions: a disk that is busy keeps the old ones.
func (d *device) reread() {
	_ = unix.IoctlSetInt(int(d.Fd()), unix.BLKRRPART, 0)
}

// fresh drops what the kernel remembers of the disk's blocks: ZFS writes to
// partitions without going through the memory of the disk, which would keep
// showing what was there before.
func (d *device) fresh() {
	_ = unix.IoctlSetInt(int(d.Fd()), unix.BLKFLSBUF, 0)
}
