package images

import (
	"errors"
	"fmt"
	"io/fs"
)

// ErrNotFound says that the store has no complete file of that digest.
// It matches fs.ErrNotExist.
var ErrNotFound = fmt.Errorf("no such file in the store: %w", fs.ErrNotExist)

// ErrSignature says that a manifest was not signed with the key asked for.
var ErrSignature = errors.New("signature does not match the manifest and this key")

// NameError is a name that no file of a store has: a digest that is not 64 lower-case
// hexadecimal digits, or no UUID.
type NameError struct{ Name string }

// Error says what was expected.
func (e *NameError) Error() string {
	return fmt.Sprintf("name %.80q: want 64 lower-case hexadecimal digits, or a UUID in lower case for an image", e.Name)
}

// DigestError is bytes that do not have the digest they were named by.
type DigestError struct{ Want, Got string }

// Error names both digests.
func (e *DigestError) Error() string {
	return fmt.Sprintf("bytes have SHA-256 %s, not %s as named; they were changed on the way or on disk", e.Got, e.Want)
}

// SizeError is a file longer or shorter than announced, in bytes. Got is -1 when
// all that is known is that there was more.
type SizeError struct{ Want, Got int64 }

// Error names both sizes.
func (e *SizeError) Error() string {
	if e.Got < 0 {
		return fmt.Sprintf("more bytes than the %d announced", e.Want)
	}
	return fmt.Sprintf("size is %d bytes, not %d as announced", e.Got, e.Want)
}

// OffsetError is an upload that goes on somewhere else than where the partial
// ends. Have is where it has to go on.
type OffsetError struct {
	Digest      string
	Have, Asked int64
}

// Error says where to go on.
func (e *OffsetError) Error() string {
	return fmt.Sprintf("upload of %s: has %d bytes, so it goes on at %d, not at %d", e.Digest, e.Have, e.Have, e.Asked)
}

// NoSpaceError is a full disk. The partial upload was removed.
type NoSpaceError struct {
	Dir        string
	Need, Free int64 // bytes; Free is 0 when a write found the disk full
}

// Error says how much is missing.
func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("disk full: %d bytes needed under %s, %d free; free some space (unused platforms can be collected) and import again", e.Need, e.Dir, e.Free)
}
