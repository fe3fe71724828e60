package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Append adds what r gives to the upload of a file of total bytes, at offset,
// which must be where the upload has come to (*OffsetError otherwise; offset 0
// with nothing there starts it). It returns how many bytes are there afterwards
// and whether the file is now complete: hashed, on disk and under its name.
//
// When r ends early or fails, what came is kept and the upload can go on, also
// after a restart of the process. Wrong bytes (*DigestError), too many
// (*SizeError) and a full disk (*NoSpaceError) remove the partial.
func (s *Store) Append(ctx context.Context, digest string, total, offset int64, r io.Reader) (have int64, complete bool, err error) {
	return s.AppendNamed(ctx, digest, digest, total, offset, r)
}

// AppendNamed is Append to a file whose name is not its digest.
func (s *Store) AppendNamed(ctx context.Context, name, digest string, total, offset int64, r io.Reader) (have int64, complete bool, err error) {
	if err := s.check(name); err != nil {
		return 0, false, err
	}
	if err := CheckDigest(digest); err != nil {
		return 0, false, err
	}
	if total <= 0 || offset < 0 || offset > total {
		return 0, false, fmt.Errorf("append to %s at %d: %w", name, offset, &SizeError{Want: total, Got: offset})
	}
	u, err := s.acquire(ctx, name)
	if err != nil {
		return 0, false, fmt.Errorf("append to %s: %w", name, err)
	}
	defer s.release(name, u)

	if fi, err := os.Lstat(s.file(name)); err == nil {
		if offset != fi.Size() || total != fi.Size() {
			return fi.Size(), true, &OffsetError{Digest: name, Have: fi.Size(), Asked: offset}
		}
		return fi.Size(), true, nil
	}
	have, err = s.appendPartial(ctx, u, name, total, offset, r)
	if err != nil {
		return have, false, err
	}
	if have < total {
		return have, false, nil
	}
	if got := hex.EncodeToString(u.sum.Sum(nil)); got != digest {
		return 0, false, s.discard(u, name, &DigestError{Want: digest, Got: got})
	}
	if err := s.publish(name); err != nil {
		u.sum = nil
		return have, false, err
	}
	u.sum = nil
	return have, true, nil
}

// appendPartial writes r behind the partial file and returns its new size.
func (s *Store) appendPartial(ctx context.Context, u *upload, digest string, total, offset int64, r io.Reader) (have int64, err error) {
	f, err := os.OpenFile(s.partial(digest), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return 0, s.discard(u, digest, &NoSpaceError{Dir: s.dir, Need: total - offset})
		}
		return 0, fmt.Errorf("append to %s: %w", digest, err)
	}
	defer func() {
		if cerr := f.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("append to %s: %w", digest, cerr)
		}
	}()
	if err := u.catchUp(ctx, f); err != nil {
		u.sum = nil
		return 0, fmt.Errorf("append to %s: read what is there: %w", digest, err)
	}
	if u.size > total {
		return 0, s.discard(u, digest, &SizeError{Want: total, Got: u.size})
	}
	if offset != u.size {
		have := u.size
		if have == 0 {
			_ = s.discard(u, digest, nil) // nothing there: leave no empty file behind
		}
		return have, &OffsetError{Digest: digest, Have: have, Asked: offset}
	}
	if free, err := s.free(s.dir); err == nil && free < total-offset {
		return 0, s.discard(u, digest, &NoSpaceError{Dir: s.dir, Need: total - offset, Free: free})
	}
	return s.stream(ctx, u, f, digest, total, r)
}

// stream copies r to f and into the running hash.
func (s *Store) stream(ctx context.Context, u *upload, f *os.File, digest string, total int64, r io.Reader) (int64, error) {
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return u.size, fmt.Errorf("append to %s: %w", digest, err)
		}
		n, rerr := r.Read(buf)
		if u.size+int64(n) > total {
			return 0, s.discard(u, digest, &SizeError{Want: total, Got: -1})
		}
		if n > 0 {
			if _, err := s.copy(f, buf[:n]); err != nil {
				if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
					return 0, s.discard(u, digest, &NoSpaceError{Dir: s.dir, Need: total - u.size})
				}
				u.sum = nil // how much was written is not known; the file is read again next time
				return u.size, fmt.Errorf("append to %s: %w", digest, err)
			}
			u.sum.Write(buf[:n])
			u.size += int64(n)
		}
		switch {
		case rerr == io.EOF:
			if u.size == total {
				if err := f.Sync(); err != nil {
					u.sum = nil
					return u.size, fmt.Errorf("append to %s: %w", digest, err)
				}
			}
			return u.size, nil
		case rerr != nil:
			return u.size, fmt.Errorf("append to %s after %d bytes: %w", digest, u.size, rerr)
		}
	}
}

// catchUp makes the running hash cover what is in f and leaves f at its end.
func (u *upload) catchUp(ctx context.Context, f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if u.sum == nil || u.size != fi.Size() {
		u.sum, u.size = sha256.New(), 0
		n, err := io.Copy(u.sum, ctxReader{ctx, f})
		if err != nil {
			return err
		}
		u.size = n
	}
	_, err = f.Seek(u.size, io.SeekStart)
	return err
}

// discard removes the partial and returns cause, joined with what went wrong on the way.
func (s *Store) discard(u *upload, digest string, cause error) error {
	u.sum, u.size = nil, 0
	err := os.Remove(s.partial(digest))
	if cause != nil {
		cause = fmt.Errorf("append to %s: %w", digest, cause)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(cause, fmt.Errorf("remove partial upload: %w", err))
	}
	return cause
}

// publish gives a hashed and synced partial its name. It is durable on return.
func (s *Store) publish(digest string) error {
	if err := os.Chmod(s.partial(digest), 0o444); err != nil {
		return fmt.Errorf("publish %s: %w", digest, err)
	}
	if err := os.Rename(s.partial(digest), s.file(digest)); err != nil {
		return fmt.Errorf("publish %s: %w", digest, err)
	}
	for _, sub := range []string{"files", "partial"} {
		if err := syncDir(filepath.Join(s.dir, sub)); err != nil {
			return fmt.Errorf("publish %s: %w", digest, err)
		}
	}
	return nil
}

// syncDir makes renames in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
