package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"nereid/agent/identity"
	"nereid/api"
)

// Of the workers of images.
const (
	imageSlots = 2               // images that are fetched at once
	imageRetry = 2 * time.Minute // after which one that failed is tried again, at the latest
	imageStall = time.Minute     // without a byte, after which a fetch is given up
	imageTell  = 2 * time.Second // between reports of how far one is
)

// imageKind is the set of the images that a server may fetch, by UUID.
func imageKind() kind[api.ImageSpec] {
	return kind[api.ImageSpec]{
		what: "image", file: imagesFile, set: api.ImageSet,
		key: func(s api.ImageSpec) string { return s.UUID }, slot: func(key string) string { return key },
		lost: "Which images instances are made from could not be kept",
	}
}

// imageCrew fetches images, each once however many instances wait for it.
type imageCrew struct {
	*crew
	a    *Agent
	i    *instances
	set  *follower[api.ImageSpec]
	wait map[string]map[string]bool // instances that wait, by image; guarded by crew.mu
}

func newImages(a *Agent, i *instances) *imageCrew {
	c := &imageCrew{crew: newCrew(imageSlots, imageRetry), a: a, i: i, set: newFollower(a, imageKind()), wait: map[string]map[string]bool{}}
	c.begin = c.job
	return c
}

// fetch has an image fetched for an instance.
func (c *imageCrew) fetch(image, instance string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wait[image] == nil {
		c.wait[image] = map[string]bool{}
	}
	if c.wait[image][instance] {
		return // and it is being fetched, or tried again
	}
	c.wait[image][instance] = true
	if len(c.wait[image]) == 1 {
		c.changed(image)
	}
}

// took looks at what the head node says of images: those that are waited for are tried
// at once, and there is nothing to do of those that are gone.
func (c *imageCrew) took() {
	for _, image := range c.set.changes() {
		c.disturbed(image)
	}
	c.set.mu.Lock()
	ids := slices.Collect(maps.Values(c.set.state.Gone))
	c.set.mu.Unlock()
	c.set.done(ids)
}

// waiting has the instances looked at that wait for an image.
func (c *imageCrew) waiting(image string) {
	for _, uuid := range slices.Sorted(maps.Keys(c.wait[image])) {
		c.i.look(uuid)
	}
}

// job is what there is to do of an image.
func (c *imageCrew) job(image string) (func(context.Context) error, func(error) bool) {
	c.set.mu.Lock()
	spec, known := c.set.state.Items[image]
	c.set.mu.Unlock()
	wanted := len(c.wait[image]) > 0
	try := func(ctx context.Context) error {
		switch {
		case !wanted || c.i.m.HasImage(image):
			return nil
		case !known:
			return errors.New("the head node did not name it yet")
		}
		return c.bring(ctx, spec)
	}
	return try, func(err error) bool {
		if err != nil {
			c.a.Log.Error("fetch image", "image", image, "err", err)
			c.i.m.ImageComing(image, "it could not be fetched, and is tried again: "+err.Error())
			c.waiting(image)
			return false
		}
		c.waiting(image)
		delete(c.wait, image)
		return true
	}
}

// bring fetches an image from the head node into the pool. It ends when no byte came
// for imageStall, however long it takes.
func (c *imageCrew) bring(ctx context.Context, spec api.ImageSpec) error {
	cert := c.a.cert.Load()
	if cert == nil {
		return errors.New("this server has no certificate of the head node's yet")
	}
	base, err := url.Parse(c.a.Boot.API)
	if err != nil {
		return err
	}
	trust := identity.Trust{CASHA256: c.a.Boot.CASHA256, Host: base.Hostname(), Now: c.a.Clock.Now}
	h := newHead(base, trust, cert, false, c.a.Dial)
	defer h.close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	errStall := fmt.Errorf("no byte came for %v", imageStall)
	stall := time.AfterFunc(imageStall, func() { stop(errStall) })
	defer stall.Stop()
	body, err := h.open(ctx, "/v1/images/"+spec.UUID+"/file")
	if err == nil {
		defer body.Close()
		last := time.Now()
		err = c.a.Zones.Datasets.ImportImage(ctx, spec, body, func(done int64) {
			stall.Reset(imageStall)
			if time.Since(last) >= imageTell {
				last = time.Now()
				c.coming(spec, done)
			}
		})
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(cause, errStall) {
			err = cause
		}
		return err
	}
	c.i.m.ImageThere(spec.UUID, true)
	return nil
}

// coming tells how far an image is.
func (c *imageCrew) coming(spec api.ImageSpec, done int64) {
	how := fmt.Sprintf("%s, %d of %d MB are there", spec.Name, done/1e6, spec.File.Size/1e6)
	c.i.m.ImageComing(spec.UUID, how)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting(spec.UUID)
}

// open asks for what may be large: its bytes are for the caller, who closes them.
func (h *head) open(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base.JoinPath(path).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		data, _ := io.ReadAll(io.LimitReader(resp.Body, maxFile)) // what is read says why
		return nil, fmt.Errorf("GET %s: %w", path, parseProblem(resp.StatusCode, resp.Header.Get("Content-Type"), data))
	}
	return resp.Body, nil
}
