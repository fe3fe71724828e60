package zone

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"nereid/agent/machine/mdata"
	"nereid/api"
)

// source is the metadata of one zone: what the agent left, and over it what the zone
// changed and the head node has not taken in. It is a mdata.Source; its methods are for
// any goroutine.
type source struct {
	uuid    string
	file    string // that the agent leaves
	changes Changes

	mu      sync.Mutex
	guest   mdata.Guest
	was     os.FileInfo       // of the file, when it was read
	pending map[string]change // by key; nil: not read yet
	next    uint64
}

// change is one that is kept in a file.
type change struct {
	name  string
	value *string // nil: deleted
}

// errNow is why a request cannot be answered at this moment.
var errNow = errors.New("the server cannot answer now; try again")

// now is what the zone reads of itself at this moment. s.mu is held.
func (s *source) now() (mdata.Guest, error) {
	info, err := os.Stat(s.file)
	if err != nil {
		return mdata.Guest{}, errNow
	}
	if s.was == nil || !os.SameFile(s.was, info) || !info.ModTime().Equal(s.was.ModTime()) {
		var g mdata.Guest
		if err := read(s.file, &g); err != nil {
			return g, errNow
		}
		s.guest, s.was = g, info
	}
	if err := s.load(); err != nil {
		return mdata.Guest{}, errNow
	}
	g := s.guest
	for key, c := range s.pending {
		if _, err := os.Lstat(filepath.Join(s.changes.Dir, s.uuid, c.name)); errors.Is(err, fs.ErrNotExist) {
			delete(s.pending, key) // the head node has it
		}
	}
	if len(s.pending) > 0 {
		g.Metadata = maps.Clone(g.Metadata)
		if g.Metadata == nil {
			g.Metadata = map[string]any{}
		}
		for key, c := range s.pending {
			if c.value == nil {
				delete(g.Metadata, key)
			} else {
				g.Metadata[key] = *c.value
			}
		}
	}
	return g, nil
}

// load reads the changes that are kept, once. s.mu is held.
func (s *source) load() error {
	if s.pending != nil {
		return nil
	}
	names, err := s.changes.names(s.uuid)
	if err != nil {
		return err
	}
	pending := map[string]change{}
	for _, name := range names {
		if n, err := strconv.ParseUint(name[:16], 16, 64); err == nil {
			s.next = max(s.next, n+1)
		}
		c, err := s.changes.read(s.uuid, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		pending[c.Key] = change{name, c.Value}
	}
	s.pending = pending
	return nil
}

// Get implements mdata.Source.
func (s *source) Get(key string) (string, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.now()
	if err != nil {
		return "", false, err
	}
	value, found := g.Get(key)
	return value, found, nil
}

// Keys implements mdata.Source.
func (s *source) Keys() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.now()
	if err != nil {
		return nil, err
	}
	return g.Keys(), nil
}

// Put implements mdata.Source. It returns when the change is kept for good.
func (s *source) Put(key, value string) error { return s.set(key, &value) }

// Delete implements mdata.Source, as Put does.
func (s *source) Delete(key string) error { return s.set(key, nil) }

// maxPending is how many keys a zone may have changed that the head node has not heard of.
const maxPending = 256

func (s *source) set(key string, value *string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.now()
	if err != nil {
		return err
	}
	if err := g.Writable(key); err != nil {
		return err
	}
	have, is := g.Get(key)
	if value == nil && !is || value != nil && is && have == *value {
		return nil // its type stays what it is
	}
	if value != nil {
		if err := g.Fits(key, *value); err != nil {
			return err
		}
	}
	before, again := s.pending[key]
	if !again && len(s.pending) >= maxPending {
		return fmt.Errorf("%d changes wait for the head node; try again when it is back", len(s.pending))
	}
	c := api.MetadataChange{ID: rand.Text(), Instance: s.uuid, Key: key, Value: value}
	name := changeName(s.next, c.ID)
	if err := s.changes.add(c, name); err != nil {
		return fmt.Errorf("the server cannot keep the change now: %w", reason(err))
	}
	s.next++
	s.pending[key] = change{name, value}
	if again { // the newer one counts
		_ = s.changes.Drop(s.uuid, []string{before.name[17:]}) // told of once more it does no harm
	}
	return nil
}

// reason is an error without the server's paths.
func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// programs are the names by which Program is called in a zone, besides init.
var programs = slices.Concat([]string{scriptName}, clients)
