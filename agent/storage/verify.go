package storage

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"syscall"

	"nereid/api"
	"nereid/images/tree"
)

// errMoreBytes says that a file goes on behind the size that its manifest gives.
var errMoreBytes = errors.New("the file has more bytes than its manifest says")

// verifier gives a file's bytes on, counts and hashes them. Its Read fails at the first
// byte too many.
type verifier struct {
	from     io.Reader
	file     api.ImageFile
	sum      hash.Hash
	want     string // hexadecimal
	done     int64
	progress func(int64)
	failed   error // of from, but its end
}

// newVerifier takes SHA-256, and SHA-1 where an old manifest has nothing else.
func newVerifier(f api.ImageFile, from io.Reader, progress func(int64)) (*verifier, error) {
	v := &verifier{from: from, file: f, sum: sha256.New(), progress: progress}
	var ok bool
	switch v.want, ok = strings.CutPrefix(f.Digest, "sha256:"); {
	case ok && len(v.want) == 2*sha256.Size:
	case f.Digest == "" && len(f.SHA1) == 2*sha1.Size:
		v.sum, v.want = sha1.New(), f.SHA1
	default:
		return nil, fmt.Errorf("its file has digest %q, not sha256: and 64 hexadecimal digits", f.Digest)
	}
	if f.Size <= 0 {
		return nil, fmt.Errorf("its file is said to have %d bytes", f.Size)
	}
	return v, nil
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.failed != nil {
		return 0, v.failed
	}
	n, err := v.from.Read(p)
	v.done += int64(n)
	v.sum.Write(p[:n])
	if v.progress != nil {
		v.progress(v.done)
	}
	switch {
	case v.done > v.file.Size:
		v.failed = fmt.Errorf("%w, which is %d", errMoreBytes, v.file.Size)
		return 0, v.failed
	case err != nil && err != io.EOF:
		v.failed = fmt.Errorf("read its bytes, %d of %d: %w", v.done, v.file.Size, err)
		return n, v.failed
	}
	return n, err
}

// verdict says what went wrong, after what was done with the bytes ended with err: what
// is nearest to the cause. Bytes that were changed on the way are told from an image that
// never was one, for which the rest is read; not where a digest explains nothing, as of an
// entry that was refused or of a pool that is full.
func (v *verifier) verdict(ctx context.Context, err error) error {
	var entry *tree.EntryError
	var limit *tree.LimitError
	switch {
	case v.failed != nil:
		return v.failed
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && (v.done == 0 || errors.As(err, &entry) || errors.As(err, &limit) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)):
		return err
	}
	if _, rest := io.Copy(io.Discard, v); rest != nil {
		return rest
	}
	if v.done < v.file.Size {
		return fmt.Errorf("its bytes end after %d of %d: the connection or the file was cut: %w", v.done, v.file.Size, io.ErrUnexpectedEOF)
	}
	if got := hex.EncodeToString(v.sum.Sum(nil)); got != v.want {
		return fmt.Errorf("its bytes were changed on the way or on a disk: their digest is %s, not %s", got, v.want)
	}
	return err
}
