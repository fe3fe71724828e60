package storage

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CloneImage makes an instance's dataset, a clone of its image, and sets its quota, in
// MiB. One that is there is kept, whatever is in it; a clone of another image is
// ErrForeign. Errors wrap fs.ErrNotExist when the image is not in the pool.
func (r *Roots) CloneImage(ctx context.Context, image, instance string, quotaMiB int) error {
	from, err := r.dataset(ctx, image)
	if err == nil {
		err = r.named(ctx, instance, func(name string) error { return r.clone(ctx, from, instance, name, quotaMiB) })
	}
	if err != nil {
		return fmt.Errorf("make instance %s of image %s: %w", instance, image, err)
	}
	return nil
}

func (r *Roots) clone(ctx context.Context, image, instance, name string, quotaMiB int) error {
	quota, err := quotaOf(quotaMiB)
	if err != nil {
		return err
	}
	props := rootProps(map[string]string{propInstance: instance, "quota": quota})
	err = r.zfs().Clone(ctx, image+"@"+finalSnapshot, name, props)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrForeign, err)
}

func quotaOf(mib int) (string, error) {
	if mib <= 0 || mib > 1<<40 {
		return "", fmt.Errorf("quota of %d MiB: want 1 and more", mib)
	}
	return strconv.FormatInt(int64(mib)<<20, 10), nil
}

// UsedError is a quota below what an instance uses already.
type UsedError struct{ QuotaMiB, UsedMiB int }

// Error gives both numbers.
func (e *UsedError) Error() string {
	return fmt.Sprintf("quota of %d MiB refused: the instance uses %d MiB with its snapshots; "+
		"delete files or snapshots in it first, or give it more", e.QuotaMiB, e.UsedMiB)
}

// SetQuota sets how much an instance may use, in MiB, snapshots included; for a virtual
// machine as CloneDisks does. Its image's
// blocks that it did not change are not counted. A quota below what it uses is a
// *UsedError.
func (r *Roots) SetQuota(ctx context.Context, instance string, quotaMiB int) error {
	err := r.own(ctx, instance, []string{"used"}, func(name string, all map[string]map[string]string) error {
		mib := quotaMiB
		for n, p := range all {
			if _, ok := diskOf(n, p); ok {
				mib = machineQuota(quotaMiB)
			}
		}
		quota, err := quotaOf(mib)
		if err != nil {
			return err
		}
		if used := number(all[name]["used"]); used > int64(mib)<<20 {
			return &UsedError{QuotaMiB: quotaMiB, UsedMiB: int((used + 1<<20 - 1) >> 20)}
		}
		return r.zfs().Set(ctx, name, map[string]string{"quota": quota})
	})
	if err != nil {
		return fmt.Errorf("set quota of instance %s: %w", instance, err)
	}
	return nil
}

// own calls fn with the dataset of an instance, once it is sure that it is one, and with
// properties of it and of all below.
func (r *Roots) own(ctx context.Context, instance string, props []string, fn func(name string, all map[string]map[string]string) error) error {
	return r.named(ctx, instance, func(name string) error {
		all, err := r.zfs().List(ctx, name, append(props, "type", propInstance)...)
		if err != nil {
			return err
		}
		if all[name][propInstance] != instance {
			return fmt.Errorf("%s: %w", name, ErrForeign)
		}
		return fn(name, all)
	})
}

// A spec is kept compressed, as text, in as many properties as it needs, which change in
// one transaction: a property has at most 8,191 bytes (zfsprops(7)), and text that is
// not ASCII does not survive zfs get -j in the C locale. The first begins with the length
// of all, so that what is left of a longer one before does not count.
const (
	propSpec  = "nereid:spec"
	specParts = 9
	specPart  = 8000
)

// MaxSpec is how long a spec may be when it is compressed, in bytes.
const MaxSpec = specParts*specPart/4*3 - 16

// specProps are the properties of a spec, in order.
func specProps() []string {
	names := []string{propSpec}
	for n := 1; n < specParts; n++ {
		names = append(names, propSpec+strconv.Itoa(n))
	}
	return names
}

// KeepSpec keeps what is wanted of an instance with its dataset. It is the old or the new
// one whenever power goes, and the new one once KeepSpec has returned. A full quota does
// not hinder it.
func (r *Roots) KeepSpec(ctx context.Context, instance string, spec []byte) error {
	props, err := writeSpec(spec)
	if err == nil {
		err = r.named(ctx, instance, func(name string) error { return r.zfs().Keep(ctx, name, props) })
	}
	if err != nil {
		return fmt.Errorf("keep spec of instance %s: %w", instance, err)
	}
	return nil
}

// writeSpec gives the properties of a spec; those that it does not need are empty.
func writeSpec(spec []byte) (map[string]string, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(spec)
	if err = errors.Join(err, z.Close()); err != nil {
		return nil, err
	}
	if b.Len() > MaxSpec {
		return nil, fmt.Errorf("it has %d bytes, compressed %d; at most %d can be kept: give it less metadata", len(spec), b.Len(), MaxSpec)
	}
	text := base64.StdEncoding.EncodeToString(b.Bytes())
	text = strconv.Itoa(len(text)) + ":" + text
	props := map[string]string{}
	for _, name := range specProps() {
		n := min(len(text), specPart)
		props[name], text = text[:n], text[n:]
	}
	return props, nil
}

// readSpec reads the properties of a spec; nil: there are none.
func readSpec(props map[string]string) ([]byte, error) {
	var text strings.Builder
	for _, name := range specProps() {
		text.WriteString(props[name])
	}
	if text.Len() == 0 {
		return nil, nil
	}
	size, coded, _ := strings.Cut(text.String(), ":")
	n, err := strconv.Atoi(size)
	if err != nil || n < 0 || n > len(coded) {
		return nil, errors.New("the spec that is kept with it is damaged: it is cut")
	}
	b, err := base64.StdEncoding.DecodeString(coded[:n])
	var z *gzip.Reader
	if err == nil {
		z, err = gzip.NewReader(bytes.NewReader(b))
	}
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(z, 16<<20))
	}
	if err != nil {
		return nil, fmt.Errorf("the spec that is kept with it is damaged: %w", err)
	}
	return b, nil
}

// Files opens the root of an instance that does not run, to write what it needs before
// it starts. Nobody sees the mount, and it ends with Close.
func (r *Roots) Files(ctx context.Context, instance string) (*Tree, error) {
	name, err := r.dataset(ctx, instance)
	if err != nil {
		return nil, err
	}
	t, err := openTree(ctx, r.zfs(), name, false)
	if err != nil {
		return nil, fmt.Errorf("open the root of instance %s: %w", instance, err)
	}
	return t, nil
}

// DropInstance destroys an instance's dataset, its snapshots and the datasets below it,
// each by its exact name. One that is not there is no error; a dataset of the name that
// is no instance's is ErrForeign, and one that is in use a *BusyError. Nothing is
// destroyed before all that can be known says that everything can be.
func (r *Roots) DropInstance(ctx context.Context, instance string) error {
	image := ""
	err := r.own(ctx, instance, []string{"origin"}, func(name string, all map[string]map[string]string) error {
		image = clonedFrom(all)
		return r.destroyUnused(ctx, name, all)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("destroy instance %s: %w", instance, err)
	}
	if image != "" {
		r.idle(ctx, image)
	}
	return nil
}

// destroyUnused is destroy, once it is sure that nobody uses any of it.
func (r *Roots) destroyUnused(ctx context.Context, name string, all map[string]map[string]string) error {
	if len(all) > 1 { // destroyed one by one: what is in use must not be found half way
		if busy := r.holders(all); busy != nil {
			return busy
		}
	}
	err := r.destroy(ctx, name, all)
	if isBusy(err) {
		if busy := r.holders(all); busy != nil {
			return errors.Join(busy, err)
		}
	}
	return err
}

// idle notes when an image was used last. That it could not is no more than an image that
// goes too early.
func (r *Roots) idle(ctx context.Context, image string) {
	err := r.zfs().Keep(ctx, image, map[string]string{propIdle: strconv.FormatInt(time.Now().Unix(), 10)})
	if err != nil {
		r.log().WarnContext(ctx, "note when an image was used last", "image", image, "error", err)
	}
}

// destroy destroys a dataset, all below it and their snapshots, by exact names, deepest
// first.
func (r *Roots) destroy(ctx context.Context, name string, all map[string]map[string]string) error {
	snaps := map[string][]string{}
	var sets []string
	for n := range all {
		if set, snap, ok := strings.Cut(n, "@"); ok {
			snaps[set] = append(snaps[set], snap)
		} else if n == name || strings.HasPrefix(n, name+"/") {
			sets = append(sets, n)
		}
	}
	slices.Sort(sets)
	for _, set := range slices.Backward(sets) {
		slices.Sort(snaps[set])
		if len(snaps[set]) > 0 {
			if err := r.zfs().DestroySnapshots(ctx, set, snaps[set]...); err != nil {
				return err
			}
		}
		if err := r.zfs().Destroy(ctx, set); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
