package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"nereid/api"
	"nereid/images/oci"
)

// flatten makes one file of the layers of an OCI image, oci:REF or oci-layout:DIR.
func (a *app) flatten(ctx context.Context, from string) (s source, err error) {
	var i *oci.Image
	if dir, is := strings.CutPrefix(from, "oci-layout:"); is {
		i, err = oci.Layout(dir)
	} else {
		i, err = oci.Remote(ctx, strings.TrimPrefix(from, "oci:"))
	}
	if err != nil {
		return s, err
	}
	cache, err := imageCache()
	if err != nil {
		return s, err
	}
	out, err := os.CreateTemp(cache, "flat-")
	if err != nil {
		return s, err
	}
	s = source{file: out.Name(), image: api.Image{Name: i.Name, Version: i.Version, Type: api.ImageDocker, Run: i.Run, Source: from}}
	var used []string
	s.done = func() {
		for _, name := range append(used, out.Name()) {
			_ = os.Remove(name) // what stays is taken at the next import
		}
	}
	z, err := zstd.NewWriter(out)
	if err != nil {
		return s, errors.Join(err, out.Close(), os.Remove(out.Name()))
	}
	var b *bar
	used, sum, err := i.Flatten(ctx, cache, z, func(layer string, size, done int64) {
		short := strings.TrimPrefix(layer, "sha256:")[:12]
		if b == nil || b.name != short {
			if b != nil {
				b.end()
			}
			b = a.newBar(short, size)
			b.at(0)
		}
		b.at(done)
	})
	if b != nil {
		b.end()
	}
	if err = errors.Join(err, z.Close(), out.Close()); err != nil {
		return s, errors.Join(err, os.Remove(out.Name())) // the layers stay for the next try
	}
	if sum.Devices > 0 {
		fmt.Fprintf(a.stderr, "%s: left out, as %s or similar\n", api.Plural(sum.Devices, "device node"), oneLine(sum.Left[0]))
	}
	return s, nil
}

// imageCache is where images are while they are fetched.
func imageCache() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the download: %w", err)
	}
	cache = filepath.Join(cache, "nereid", "images")
	return cache, os.MkdirAll(cache, 0o700)
}
