package tree

import (
	"fmt"
)

// Limits bound what an image may make of its readers.
type Limits struct {
	Entries int   // names in all layers
	Bytes   int64 // of the files as they are unpacked, and of the tar or stream
	Ratio   int64 // bytes that one compressed byte may become, beyond the first GiB
}

// DefaultLimits are those of the head node and of agents. A Debian with a desktop has
// 300,000 names and 8 GiB; tar files shrink to a third, and source code to a tenth.
func DefaultLimits() Limits { return Limits{Entries: 1_000_000, Bytes: 256 << 30, Ratio: 200} }

// Bounds that every file system has.
const (
	MaxID     = 65535 // owners: an instance's user namespace has as many
	maxPath   = 4095  // bytes (PATH_MAX)
	maxName   = 255   // bytes of a part of a path (NAME_MAX)
	maxDepth  = 512   // parts of a path
	maxLinks  = 40    // symbolic links on the way to a parent, as in Linux
	ratioFrom = 1 << 30
)

// EntryError is an entry of a tar that is refused.
type EntryError struct {
	Name   string // as the tar has it
	Reason string
}

// Error names the entry.
func (e *EntryError) Error() string { return fmt.Sprintf("entry %.200q: %s", e.Name, e.Reason) }

// LimitError is an image that is larger than it may be, or grows when it is unpacked as
// only bombs do.
type LimitError struct{ Text string }

// Error says which bound it is.
func (e *LimitError) Error() string { return e.Text }

// FormatError is a file that is not what was said, or nothing that is known.
type FormatError struct{ Text string }

// Error says what it is.
func (e *FormatError) Error() string { return e.Text }
