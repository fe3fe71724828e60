package zone

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"nereid/api"
)

// Changes are what zones changed of their own metadata, and the head node has not taken
// in: a folder for each zone, on the pool, and in it a file for each change, in their
// order. One that is there was promised to its zone.
type Changes struct {
	Dir string // of all zones
}

// writtenName is their folder, below that of the logs.
const writtenName = "written"

// WrittenDir is the folder of Changes on a server.
func WrittenDir() string { return filepath.Join(Consoles, Logs, writtenName) }

// changeName is a change's file: its number, and its ID.
func changeName(number uint64, id string) string { return fmt.Sprintf("%016x-%s", number, id) }

// names are a zone's files, in their order.
func (c Changes) names(instance string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(c.Dir, instance))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []string
	for _, e := range entries { // sorted by name
		if len(e.Name()) > 17 && e.Name()[16] == '-' && !strings.HasSuffix(e.Name(), nextSuffix) {
			all = append(all, e.Name())
		}
	}
	return all, nil
}

// Read gives a zone's changes, the oldest first.
func (c Changes) Read(instance string) (all []api.MetadataChange, err error) {
	names, err := c.names(instance)
	if err != nil {
		return nil, fmt.Errorf("read changes of metadata: %w", err)
	}
	for _, name := range names {
		ch, err := c.read(instance, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read changes of metadata: %w", err)
		}
		all = append(all, ch)
	}
	return all, nil
}

func (c Changes) read(instance, name string) (ch api.MetadataChange, err error) {
	err = read(filepath.Join(c.Dir, instance, name), &ch)
	ch.Instance = instance
	return ch, err
}

// Drop removes those of a zone's changes that have an id, and its folder with the last.
func (c Changes) Drop(instance string, ids []string) error {
	names, err := c.names(instance)
	if err != nil {
		return fmt.Errorf("drop changes of metadata: %w", err)
	}
	left := 0
	for _, name := range names {
		if !slices.Contains(ids, name[17:]) {
			left++
			continue
		}
		if err := os.Remove(filepath.Join(c.Dir, instance, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("drop changes of metadata: %w", err)
		}
	}
	if left == 0 {
		_ = os.Remove(filepath.Join(c.Dir, instance)) // it may have another one now
	}
	return nil
}

// Forget removes all changes of a zone.
func (c Changes) Forget(instance string) error {
	if err := os.RemoveAll(filepath.Join(c.Dir, instance)); err != nil {
		return fmt.Errorf("forget changes of metadata: %w", err)
	}
	return nil
}

// All names the zones that have changes.
func (c Changes) All() ([]string, error) {
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("list changes of metadata: %w", err)
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, e.Name())
		}
	}
	return all, nil
}

const nextSuffix = ".next"

// add keeps a change for good, under a name, and has those who watch look.
func (c Changes) add(ch api.MetadataChange, name string) error {
	err := c.put(ch, name)
	if errors.Is(err, fs.ErrNotExist) { // Drop took the folder
		err = c.put(ch, name)
	}
	return err
}

func (c Changes) put(ch api.MetadataChange, name string) error {
	if _, err := os.Stat(c.Dir); err != nil {
		return err // there is no pool
	}
	folder := filepath.Join(c.Dir, ch.Instance)
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	data, err := json.Marshal(ch)
	if err != nil {
		return err
	}
	path := filepath.Join(folder, name)
	err = writeSynced(path+nextSuffix, data)
	if err == nil {
		err = os.Rename(path+nextSuffix, path)
	}
	if err == nil {
		err = errors.Join(syncDir(folder), syncDir(c.Dir))
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(path), os.RemoveAll(path+nextSuffix))
	}
	now := time.Now()
	return os.Chtimes(folder, now, now) // those who watch are told of that
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
