package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Store is a directory of immutable files named by their SHA-256 or, when it is opened by
// OpenNamed, by UUIDs. It is safe for concurrent use within one process; one process owns
// the directory.
type Store struct {
	dir   string
	check func(name string) error
	free  func(dir string) (int64, error)
	copy  func(dst *os.File, p []byte) (int, error)

	mu      sync.Mutex
	uploads map[string]*upload
}

// upload is a partial file that is being continued. Its turn channel holds one
// token, taken by whoever appends.
type upload struct {
	turn chan struct{}
	sum  hash.Hash // nil until the bytes on disk were read once
	size int64     // bytes in sum
	refs int       // guarded by Store.mu
}

// Entry is a complete file of the store.
type Entry struct {
	SHA256  string // or UUID
	Size    int64  // bytes
	Partial bool   // still being uploaded; Size is what is there
	ModTime time.Time
}

// OpenStore opens the store in dir and makes its directories when they are not there.
func OpenStore(dir string) (*Store, error) { return openStore(dir, 0o755, CheckDigest) }

// OpenNamed opens a store whose files are named by UUIDs, as OpenStore does. None but
// the owner of dir can read it.
func OpenNamed(dir string) (*Store, error) { return openStore(dir, 0o700, CheckUUID) }

func openStore(dir string, mode fs.FileMode, check func(string) error) (*Store, error) {
	for _, d := range []string{dir, filepath.Join(dir, "files"), filepath.Join(dir, "partial")} {
		if err := os.MkdirAll(d, mode); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	return &Store{
		dir:     dir,
		check:   check,
		free:    freeBytes,
		copy:    func(dst *os.File, p []byte) (int, error) { return dst.Write(p) },
		uploads: make(map[string]*upload),
	}, nil
}

// CheckDigest returns a *NameError unless digest is 64 lower-case hexadecimal digits.
func CheckDigest(digest string) error {
	ok := len(digest) == 2*sha256.Size
	for i := 0; ok && i < len(digest); i++ {
		c := digest[i]
		ok = '0' <= c && c <= '9' || 'a' <= c && c <= 'f'
	}
	if !ok {
		return &NameError{Name: digest}
	}
	return nil
}

// CheckUUID returns a *NameError unless name is a UUID in lower case.
func CheckUUID(name string) error {
	ok := len(name) == 36
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			ok = c == '-'
		} else {
			ok = '0' <= c && c <= '9' || 'a' <= c && c <= 'f'
		}
	}
	if !ok {
		return &NameError{Name: name}
	}
	return nil
}

func (s *Store) file(digest string) string    { return filepath.Join(s.dir, "files", digest) }
func (s *Store) partial(digest string) string { return filepath.Join(s.dir, "partial", digest) }

// Open opens a complete file. The error is ErrNotFound or a *NameError when
// there is no such file.
func (s *Store) Open(ctx context.Context, digest string) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.check(digest); err != nil {
		return nil, err
	}
	f, err := os.Open(s.file(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", digest, err)
	}
	return f, nil
}

// Has reports whether the complete file is there.
func (s *Store) Has(digest string) bool {
	e, err := s.Stat(digest)
	return err == nil && !e.Partial
}

// Stat describes a complete file or a partial upload; ErrNotFound when there is
// neither.
func (s *Store) Stat(digest string) (Entry, error) {
	if err := s.check(digest); err != nil {
		return Entry{}, err
	}
	e := Entry{SHA256: digest}
	fi, err := os.Lstat(s.file(digest))
	if errors.Is(err, fs.ErrNotExist) {
		e.Partial = true
		fi, err = os.Lstat(s.partial(digest))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, fmt.Errorf("stat %s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("stat %s: %w", digest, err)
	}
	e.Size, e.ModTime = fi.Size(), fi.ModTime()
	return e, nil
}

// List returns complete files and partial uploads, each ordered by digest.
// Files with other names are left out.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	var list []Entry
	for _, sub := range []string{"files", "partial"} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ents, err := os.ReadDir(filepath.Join(s.dir, sub))
		if err != nil {
			return nil, fmt.Errorf("list image store: %w", err)
		}
		for _, de := range ents {
			if s.check(de.Name()) != nil {
				continue
			}
			fi, err := de.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list image store: %w", err)
			}
			list = append(list, Entry{SHA256: de.Name(), Size: fi.Size(), Partial: sub == "partial", ModTime: fi.ModTime()})
		}
	}
	return list, nil
}

// Verify reads a complete file and returns a *DigestError when its bytes do not
// have the digest they are named by. It changes nothing.
func (s *Store) Verify(ctx context.Context, digest string) error {
	return s.VerifyNamed(ctx, digest, digest)
}

// VerifyNamed is Verify for a file whose name is not its digest.
func (s *Store) VerifyNamed(ctx context.Context, name, digest string) error {
	f, err := s.Open(ctx, name)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, ctxReader{ctx, f}); err != nil {
		return fmt.Errorf("verify %s: %w", name, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != digest {
		return &DigestError{Want: digest, Got: got}
	}
	return nil
}

// Remove deletes a file and its partial upload. Removing what is not there is
// no error. Who has the file open can read it to its end.
func (s *Store) Remove(ctx context.Context, digest string) error {
	if err := s.check(digest); err != nil {
		return err
	}
	u, err := s.acquire(ctx, digest)
	if err != nil {
		return fmt.Errorf("remove %s: %w", digest, err)
	}
	defer s.release(digest, u)
	u.sum = nil
	for _, p := range []string{s.file(digest), s.partial(digest)} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", digest, err)
		}
	}
	return nil
}

// acquire takes the turn of a digest, so that one caller at a time changes it.
func (s *Store) acquire(ctx context.Context, digest string) (*upload, error) {
	s.mu.Lock()
	u := s.uploads[digest]
	if u == nil {
		u = &upload{turn: make(chan struct{}, 1)}
		u.turn <- struct{}{}
		s.uploads[digest] = u
	}
	u.refs++
	s.mu.Unlock()
	select {
	case <-u.turn:
		return u, nil
	case <-ctx.Done():
		s.mu.Lock()
		s.drop(digest, u)
		s.mu.Unlock()
		return nil, ctx.Err()
	}
}

// release gives the turn back.
func (s *Store) release(digest string, u *upload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.turn <- struct{}{}
	s.drop(digest, u)
}

// drop forgets an upload nobody waits for, unless its hash is worth keeping.
func (s *Store) drop(digest string, u *upload) {
	u.refs--
	if u.refs == 0 && u.sum == nil {
		delete(s.uploads, digest)
	}
}

// ctxReader ends a long read with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
