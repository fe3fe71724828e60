package storage

import (
	"context"
	"io"
	"os"
)

// Datasets makes and changes the file systems and volumes of a pool. Names are
// those of zfs(8), such as "zones/config"; properties are its name=value pairs.
//
// A call that failed may be made again. Where zfs said so, its error is
// fs.ErrExist, fs.ErrNotExist, syscall.EBUSY for a dataset that others depend
// on or that has newer snapshots, syscall.ENOSPC or syscall.EDQUOT. A call that go-zfs makes is not cut short by the
// end of its context: it ends when the command does.
type Datasets interface {
	// Create makes a file system; its parent must be there.
	Create(ctx context.Context, name string, props map[string]string) error
	// CreateVolume makes a volume of a size in bytes, a multiple of its block size;
	// one of that name that is there already is left as it is.
	CreateVolume(ctx context.Context, name string, bytes uint64, props map[string]string) error
	// Set sets properties, in the order of their names.
	Set(ctx context.Context, name string, props map[string]string) error
	// Rename gives a dataset another name in the same pool, or a snapshot another name
	// on the same dataset.
	Rename(ctx context.Context, from, to string) error
	// Destroy destroys one dataset or snapshot that nothing depends on.
	Destroy(ctx context.Context, name string) error
}

// Snapshots takes snapshots and makes something of them. A snapshot's name is
// "dataset@snapshot". Errors are as those of Datasets.
type Snapshots interface {
	// Snapshot takes a snapshot; recursive: of all datasets below too, at one moment.
	Snapshot(ctx context.Context, dataset, snapshot string, recursive bool) error
	// Clone makes a dataset from a snapshot, and its parents where they are missing;
	// a clone of it that has the name already is left as it is, but for the properties
	// of one that power went from before it had them, which shows by another mount point
	// than the wanted one. Anything else that has the name is fs.ErrExist.
	Clone(ctx context.Context, snapshot, name string, props map[string]string) error
	// Rollback makes a dataset what it was; newer destroys snapshots taken since,
	// and without it their presence is an error.
	Rollback(ctx context.Context, snapshot string, newer bool) error
	// DestroySnapshots destroys snapshots of one dataset in one transaction; one
	// that is not there is no error.
	DestroySnapshots(ctx context.Context, dataset string, snapshots ...string) error
}

// Streams moves datasets between pools. Errors are as those of Datasets.
type Streams interface {
	// Send writes a stream of a snapshot; with a base, which is an earlier snapshot
	// of the same dataset, what changed since.
	Send(ctx context.Context, snapshot, base string, w io.Writer) error
	// Receive makes a dataset of a stream, not mounted. A name with "@" behind it names
	// the snapshot, too, which else has the name that it was sent with. Properties take the place of
	// the stream's (-o); a property with an empty value is inherited (-x). resumable:
	// what came of a stream that was cut stays (-s). The end of ctx ends it.
	Receive(ctx context.Context, name string, r io.Reader, props map[string]string, resumable bool) error
}

// Lister lists datasets.
type Lister interface {
	// List gives properties of a dataset, of all below it, and of their snapshots,
	// by name, in one command whatever their number. A property without a value is
	// left out, and so is one of users that is not its own but inherited.
	List(ctx context.Context, root string, props ...string) (map[string]map[string]string, error)
}

// Properties keeps what belongs to a dataset with it.
type Properties interface {
	// Keep sets properties of users (module:name) in one transaction; an empty value
	// takes the property away. Values, of at most 8,191 bytes, are in no command line.
	Keep(ctx context.Context, name string, props map[string]string) error
}

// Mounts shows what is in a file system.
type Mounts interface {
	// Mount gives the folder at the top of a file system. The mount is attached nowhere:
	// nobody else sees it, no set-user-ID bit, device node or program on it acts, and it
	// ends when the folder is closed, also by the end of the process.
	Mount(ctx context.Context, name string, readOnly bool) (*os.File, error)
}

// Volumes shows what is on a volume.
type Volumes interface {
	// OpenVolume opens the device of a volume to write to it, once the system has made it.
	// It is that volume's for certain, and nobody else has it for themselves.
	OpenVolume(ctx context.Context, name string) (*os.File, error)
}

// Pooled is all that images and instances need of ZFS.
type Pooled interface {
	Datasets
	Snapshots
	Streams
	Lister
	Properties
	Mounts
	Volumes
	Moments
	Rollbacker
}
