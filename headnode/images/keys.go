package images

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"

	"nereid/api"
	"nereid/headnode/store"
)

// Prefix is what all keys of this package begin with, for store.Watch.
const Prefix = "images/"

// Keys of this package; see the package comment.
const (
	imagePrefix  = Prefix + "image/"
	namePrefix   = Prefix + "name/"
	ownerPrefix  = Prefix + "owner/"
	statePrefix  = Prefix + "state/"
	originPrefix = Prefix + "origin/"
)

// nameKey is below what the images of a name are: names are longer than keys may be.
func nameKey(name string) string {
	sum := sha256.Sum256([]byte(name))
	return namePrefix + hex.EncodeToString(sum[:16]) + "/"
}

// indexes are the keys that lead to an image.
func indexes(i api.Image) []string {
	out := []string{nameKey(i.Name) + i.UUID, ownerPrefix + i.Owner + "/" + i.UUID, statePrefix + i.State + "/" + i.UUID}
	if i.Origin != "" {
		out = append(out, originPrefix+i.Origin+"/"+i.UUID)
	}
	return out
}

// put writes an image with a new revision, in place of old when that has a UUID.
func put(tx store.Tx, old, i api.Image) (api.Image, error) {
	var was []string
	if old.UUID != "" {
		was = indexes(old)
	}
	is := indexes(i)
	for _, k := range was {
		if !slices.Contains(is, k) {
			if err := tx.Delete(k); err != nil {
				return i, err
			}
		}
	}
	for _, k := range is {
		if !slices.Contains(was, k) {
			if err := tx.Put(k, nil); err != nil {
				return i, err
			}
		}
	}
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	i.Revision = hex.EncodeToString(b)
	return i, store.Put(tx, imagePrefix+i.UUID, i)
}

// drop removes an image.
func drop(tx store.Tx, i api.Image) error {
	for _, k := range append(indexes(i), imagePrefix+i.UUID) {
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// below ranges over the images that an index leads to, behind one of them.
func below(tx store.Tx, prefix, after string) iter.Seq2[api.Image, error] {
	if after != "" {
		after = prefix + after
	}
	return func(yield func(api.Image, error) bool) {
		for e, err := range store.Through[api.Image](tx, prefix, after, func(it store.Item) string { return imagePrefix + it.Key[len(prefix):] }) {
			if !yield(e.Value, err) || err != nil {
				return
			}
		}
	}
}

// newUUID is a random UUID (RFC 9562, section 5.4).
func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
