package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Collection is when images that nobody uses go.
type Collection struct {
	After    time.Duration // how long nobody used it; 0: 7 days
	Pressure float64       // share of the pool in use from which on age does not count; 0: 0.8
}

// Unused are the images that go, those that were unused for longest first: images
// without a clone, that keep does not name, and that nobody used for long, or the pool
// is under pressure. size and used are the pool's, in bytes. Under pressure they go until
// what they free ends it.
func (c Collection) Unused(images []FoundImage, keep func(uuid string) bool, size, used int64, now time.Time) []FoundImage {
	after, pressure := c.After, c.Pressure
	if after == 0 {
		after = 7 * 24 * time.Hour
	}
	if pressure == 0 {
		pressure = 0.8
	}
	var idle []FoundImage
	for _, i := range images {
		if len(i.Clones) == 0 && !keep(i.UUID) {
			idle = append(idle, i)
		}
	}
	slices.SortStableFunc(idle, func(a, b FoundImage) int { return a.Idle.Compare(b.Idle) })
	var gone []FoundImage
	for _, i := range idle {
		if now.Sub(i.Idle) < after && float64(used) <= pressure*float64(size) {
			continue
		}
		gone = append(gone, i)
		used -= i.Used
	}
	return gone
}

// DropImage destroys an image. One that has clones stays, which is EBUSY; one that is not
// there is no error, and a dataset of the name that is no image's is ErrForeign.
func (r *Roots) DropImage(ctx context.Context, uuid string) error {
	err := r.named(ctx, uuid, func(name string) error {
		complete, err := r.clear(ctx, uuid, name)
		if err != nil || !complete {
			return err
		}
		// Its snapshot first: with clones, or when one is made at this moment, this is
		// refused, and nothing happened.
		return r.destroy(ctx, name, map[string]map[string]string{name: nil, name + "@" + finalSnapshot: nil})
	})
	if err != nil {
		return fmt.Errorf("destroy image %s: %w", uuid, err)
	}
	return nil
}

// Collect destroys the images that c says, and says which went. One that got a clone
// since Look stays.
func (r *Roots) Collect(ctx context.Context, c Collection, f Found, keep func(uuid string) bool, size, used int64) (gone []string, err error) {
	var errs []error
	for _, i := range c.Unused(f.Images, keep, size, used, time.Now()) {
		err := r.DropImage(ctx, i.UUID)
		switch {
		case err == nil:
			gone = append(gone, i.UUID)
		case !isBusy(err):
			errs = append(errs, err)
		}
	}
	return gone, errors.Join(errs...)
}
