//go:build !linux

package storage

import (
	"context"
	"io/fs"
)

// The trees of other systems' zones are looked into when those systems have zones.

func openTree(context.Context, Mounts, string, bool) (*Tree, error) { return nil, supported() }

func makeRoot(context.Context, Mounts, string) error { return supported() }

// WriteFile is not there on this system.
func (t *Tree) WriteFile(string, []byte, Owner) error { return supported() }

// MkdirAll is not there on this system.
func (t *Tree) MkdirAll(string, Owner) error { return supported() }

// Symlink is not there on this system.
func (t *Tree) Symlink(string, string) error { return supported() }

// Remove is not there on this system.
func (t *Tree) Remove(string) error { return supported() }

// ReadFile is not there on this system.
func (t *Tree) ReadFile(string, int64) ([]byte, error) { return nil, supported() }

// Stat is not there on this system.
func (t *Tree) Stat(string) (fs.FileInfo, error) { return nil, supported() }
