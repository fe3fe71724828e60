// Package oci fetches OCI images, of a registry or a layout on disk, and flattens them
// into one tar, which is what servers unpack.
//
// The image for linux/amd64 is chosen, and others are refused before a layer is fetched.
// Each layer's digest is compared twice: of its compressed bytes as they come, and of what
// is in them (the DiffID of the image's configuration) as they are applied.
package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"nereid/api"
	"nereid/images/tree"
)

// Bounds of what an image may make of its readers.
const (
	maxLayers = 256
	maxIndex  = 4 // indexes in indexes
)

// Image is an OCI image for this kind of server.
type Image struct {
	Name    string // of its repository, without the registry
	Version string // its tag
	Run     api.ImageRun

	image  v1.Image
	config *v1.ConfigFile
}

// Remote finds an image in a registry, with the credentials that docker has for it.
func Remote(ctx context.Context, ref string) (*Image, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	desc, err := remote.Get(r, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return nil, err
	}
	i := &Image{Name: path.Base(r.Context().RepositoryStr()), Version: "1"}
	if t, ok := r.(name.Tag); ok {
		i.Version = t.TagStr()
	}
	if desc.MediaType.IsIndex() {
		idx, err := desc.ImageIndex()
		if err != nil {
			return nil, err
		}
		i.image, err = choose(idx)
		if err != nil {
			return nil, err
		}
	} else if i.image, err = desc.Image(); err != nil {
		return nil, err
	}
	return i, i.configure()
}

// Layout finds an image in an OCI image layout, a directory.
func Layout(dir string) (*Image, error) {
	idx, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%s is no OCI image layout: %w", dir, err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	i := &Image{Name: filepath.Base(abs), Version: "1"}
	if i.image, err = choose(idx); err != nil {
		return nil, err
	}
	return i, i.configure()
}

// choose finds the image for linux/amd64, of no special variant if there is one.
func choose(idx v1.ImageIndex) (v1.Image, error) {
	var seen []string
	var best v1.Image
	err := each(idx, maxIndex, func(p *v1.Platform, image func() (v1.Image, error)) error {
		if p == nil || p.OS == "" {
			i, err := image()
			if err != nil {
				return err
			}
			c, err := i.ConfigFile()
			if err != nil {
				return err
			}
			p = c.Platform()
		}
		seen = append(seen, p.String())
		plain := p.Variant == "" || p.Variant == "v1"
		if p.OS != "linux" || p.Architecture != "amd64" || best != nil || !plain {
			return nil
		}
		var err error
		best, err = image()
		return err
	})
	if err == nil && best == nil {
		err = fmt.Errorf("there is no image for linux/amd64; there are: %s", strings.Join(seen, ", "))
	}
	return best, err
}

// each calls fn for every image of an index.
func each(idx v1.ImageIndex, depth int, fn func(*v1.Platform, func() (v1.Image, error)) error) error {
	if depth == 0 {
		return errors.New("it has indexes in indexes, more than 4 deep")
	}
	m, err := idx.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsIndex():
			below, err := idx.ImageIndex(d.Digest)
			if err == nil {
				err = each(below, depth-1, fn)
			}
			if err != nil {
				return err
			}
		case d.MediaType.IsImage() && (d.Platform == nil || d.Platform.OS != "unknown"): // that is an attestation
			if err := fn(d.Platform, func() (v1.Image, error) { return idx.Image(d.Digest) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// configure reads the configuration of the chosen image.
func (i *Image) configure() (err error) {
	if i.config, err = i.image.ConfigFile(); err != nil {
		return err
	}
	c := i.config
	if c.OS != "linux" || c.Architecture != "amd64" {
		return fmt.Errorf("the image is for %s/%s, not linux/amd64", c.OS, c.Architecture)
	}
	r := c.Config
	i.Run = api.ImageRun{Init: append(append([]string{}, r.Entrypoint...), r.Cmd...), Env: r.Env, User: r.User, StopSignal: r.StopSignal}
	if path.IsAbs(r.WorkingDir) {
		i.Run.WorkingDir = r.WorkingDir
	}
	return nil
}

// Flatten fetches the layers into dir, where those that are there already are taken, and
// writes the tar. progress gets a layer's digest, its size and how much of it came. The
// names of the files in dir are returned, also with an error.
func (i *Image) Flatten(ctx context.Context, dir string, w io.Writer, progress func(layer string, size, done int64)) (used []string, s tree.Summary, err error) {
	layers, err := i.image.Layers()
	if err != nil {
		return nil, s, err
	}
	if n := len(layers); n > maxLayers || n != len(i.config.RootFS.DiffIDs) {
		return nil, s, fmt.Errorf("it has %d layers and %d digests of what is in them; want as many, and at most %d", n, len(i.config.RootFS.DiffIDs), maxLayers)
	}
	var open []tree.Layer
	for n, l := range layers {
		file, err := fetch(ctx, l, dir, progress)
		if err != nil {
			return used, s, fmt.Errorf("fetch layer %d of %d: %w", n+1, len(layers), err)
		}
		used = append(used, file)
		open = append(open, func() (io.ReadCloser, error) { return openLayer(file, i.config.RootFS.DiffIDs[n]) })
	}
	s, err = tree.Flatten(ctx, open, w, tree.DefaultLimits())
	return used, s, err
}

// fetch brings a layer into dir under its digest, which is compared.
func fetch(ctx context.Context, l v1.Layer, dir string, progress func(string, int64, int64)) (name string, err error) {
	d, err := l.Digest()
	if err != nil {
		return "", err
	}
	if d.Algorithm != "sha256" || len(d.Hex) != 64 {
		return "", fmt.Errorf("its digest is %s; want one of sha256", d)
	}
	size, err := l.Size()
	if err != nil {
		return "", err
	}
	name = filepath.Join(dir, "oci-"+d.Hex)
	if st, err := os.Stat(name); err == nil && st.Size() == size {
		progress(d.String(), size, size)
		return name, nil // it got its name when its digest was right
	}
	src, err := l.Compressed()
	if err != nil {
		return "", err
	}
	defer src.Close()
	f, err := os.CreateTemp(dir, "oci-partial-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	defer os.Remove(f.Name()) // not there any more when all went well
	sum := sha256.New()
	m := &meter{ctx: ctx, r: io.LimitReader(src, size+1), at: func(n int64) { progress(d.String(), size, n) }}
	n, err := io.Copy(io.MultiWriter(f, sum), m)
	switch {
	case err != nil:
		return "", err
	case n != size || hex.EncodeToString(sum.Sum(nil)) != d.Hex:
		return "", fmt.Errorf("its bytes are others: %d of %d, sha256:%x, not %s", n, size, sum.Sum(nil), d)
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	return name, os.Rename(f.Name(), name)
}

// openLayer opens a layer that was fetched. At its end the digest of what is in it is
// compared.
func openLayer(file string, want v1.Hash) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	s, err := tree.Decompress(f, "", tree.DefaultLimits())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	sum := sha256.New()
	return &layer{Reader: io.TeeReader(s, sum), digest: func() string { return hex.EncodeToString(sum.Sum(nil)) }, want: want,
		close: func() error { return errors.Join(s.Close(), f.Close()) }}, nil
}

type layer struct {
	io.Reader
	digest func() string
	want   v1.Hash
	close  func() error
}

func (l *layer) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if err == io.EOF && l.digest() != l.want.Hex {
		err = &tree.FormatError{Text: fmt.Sprintf("what is in the layer has the digest sha256:%s, not %s as the image says", l.digest(), l.want)}
	}
	return n, err
}

func (l *layer) Close() error { return l.close() }

// meter tells how far a reader came, and ends with its context.
type meter struct {
	ctx context.Context
	r   io.Reader
	n   int64
	at  func(int64)
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	m.at(m.n)
	return n, err
}
