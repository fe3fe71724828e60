package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

func imagePath(id, rest string) string { return "/v1/images/" + url.PathEscape(id) + rest }

// Images are the images that instances are cloned from: list, get (by UUID, NAME or
// NAME@VERSION), create, update and delete. Lists take account, owner, state, name, type
// and origin.
func (c *Client) Images() Objects[Image, ImageUpdate] {
	return Objects[Image, ImageUpdate]{c, "/v1/images"}
}

// ActivateImage offers an image to those who may use it.
func (c *Client) ActivateImage(ctx context.Context, id string) (Image, error) {
	var out Image
	err := c.call(ctx, http.MethodPost, imagePath(id, "/activate"), nil, &out)
	return out, err
}

// DisableImage ends that instances are made from an image.
func (c *Client) DisableImage(ctx context.Context, id string) (Image, error) {
	var out Image
	err := c.call(ctx, http.MethodPost, imagePath(id, "/disable"), nil, &out)
	return out, err
}

// VerifyImage has the head node read all of an image's file and check it. After an upload
// this ends the image's creation. There is no limit of time but ctx's.
func (c *Client) VerifyImage(ctx context.Context, id string) (Image, error) {
	var out Image
	err := c.long(ctx, imagePath(id, "/verify"), &out)
	return out, err
}

// CollectImages deletes failed images, imports given up, and disabled images that nothing
// uses.
func (c *Client) CollectImages(ctx context.Context) (CollectedImages, error) {
	var out CollectedImages
	err := c.long(ctx, "/v1/images/collect", &out)
	return out, err
}

// UploadImage is Upload for the file of an image that is being created.
func (c *Client) UploadImage(ctx context.Context, i Image, src io.ReaderAt, progress func(done int64)) error {
	if len(i.Files) != 1 {
		return fmt.Errorf("upload image %s: its manifest has %s", i.UUID, Plural(len(i.Files), "file"))
	}
	return c.upload(ctx, imagePath(i.UUID, "/file"), i.Name, i.Files[0].Size, src, progress)
}

// OpenImage gives the bytes of an image, of which there are size, from an offset on. A
// Read goes on by itself after a cut, as long as there is progress. The caller compares
// the digest. ctx ends it.
func (c *Client) OpenImage(ctx context.Context, uuid string, offset, size int64) (io.ReadCloser, error) {
	r := &imageReader{c: c, ctx: ctx, uuid: uuid, at: offset, size: size}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// imageStall is how long a Read waits for a byte before the request is made anew.
const imageStall = time.Minute

type imageReader struct {
	c        *Client
	ctx      context.Context
	cancel   context.CancelFunc // ends the request of body
	uuid     string
	at, size int64
	body     io.ReadCloser // nil: to be opened
	tries    int           // without a byte
}

func (r *imageReader) open() error {
	req := request{method: http.MethodGet, path: imagePath(r.uuid, "/file"), header: http.Header{"Range": {fmt.Sprintf("bytes=%d-", r.at)}}}
	if r.at == 0 {
		req.header = nil
	}
	ctx, cancel := context.WithCancel(r.ctx)
	stalled := time.AfterFunc(imageStall, cancel)
	res, err := r.c.send(ctx, req)
	stalled.Stop()
	if err != nil {
		cancel()
		return err
	}
	want := http.StatusPartialContent
	if r.at == 0 {
		want = http.StatusOK
	}
	if res.StatusCode != want || res.ContentLength != r.size-r.at {
		_ = res.Body.Close()
		cancel()
		return fmt.Errorf("fetch image %s from byte %d: the head node answers %s with %d bytes; want %d and %d", r.uuid, r.at, res.Status, res.ContentLength, want, r.size-r.at)
	}
	r.body, r.cancel = res.Body, cancel
	return nil
}

// Read gives bytes; io.EOF only when all came.
func (r *imageReader) Read(p []byte) (int, error) {
	for r.at < r.size {
		var n int
		var err error
		if r.body == nil {
			err = r.open()
			if err != nil && !again(err) {
				return 0, err
			}
		}
		if r.body != nil {
			stalled := time.AfterFunc(imageStall, r.cancel)
			n, err = r.body.Read(p[:min(int64(len(p)), r.size-r.at)])
			stalled.Stop()
			r.at += int64(n)
		}
		if n > 0 {
			r.tries = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		_ = r.Close()
		if r.tries++; r.tries >= uploadTries || r.ctx.Err() != nil {
			return 0, fmt.Errorf("fetch image %s: no progress in %d tries at byte %d: %w", r.uuid, r.tries, r.at, err)
		}
		if err := pause(r.ctx, r.c.retryDelay(r.tries)); err != nil {
			return 0, fmt.Errorf("fetch image %s: %w", r.uuid, err)
		}
	}
	return 0, io.EOF
}

// Close ends the request.
func (r *imageReader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.cancel()
	r.body = nil
	return err
}
