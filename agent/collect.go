package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"nereid/agent/storage"
)

// collectEvery is how often images that nobody uses are looked for.
const collectEvery = time.Hour

// collector is the goroutine that collects images which nobody uses, once what is on the
// pool is known.
func (c *imageCrew) collector(ctx context.Context) error {
	if c.a.Zones.Space == nil || !c.i.gate.wait(ctx) {
		return nil
	}
	for pause(ctx, collectEvery) {
		if err := c.collect(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, storage.ErrNoPool) {
			c.a.Log.Warn("collect images", "err", err)
		}
	}
	return nil
}

// collect destroys images by age and by how full the pool is: see storage.Collection.
// Those that the head node names are those of instances that are here, or are coming;
// they stay, and so does one that is waited for.
func (c *imageCrew) collect(ctx context.Context) error {
	defer c.a.health.busy("images", stepLimit+stepLimit)()
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	size, used, err := c.a.Zones.Space(ctx)
	if err != nil {
		return fmt.Errorf("find how full the pool is: %w", err)
	}
	found, err := c.a.Zones.Datasets.Look(ctx)
	if err != nil {
		return err
	}
	gone, err := c.a.Zones.Datasets.Collect(ctx, storage.Collection{}, found, c.wanted, size, used)
	for _, image := range gone {
		c.i.m.ImageThere(image, false)
		c.a.Log.Info("an image that nobody used is gone from the pool", "image", image)
	}
	return err
}

// wanted reports whether the head node names an image, or an instance waits for it.
func (c *imageCrew) wanted(image string) bool {
	c.set.mu.Lock()
	_, named := c.set.state.Items[image]
	c.set.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return named || len(c.wait[image]) > 0
}
