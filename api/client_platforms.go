package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// uploadChunk is how much one PUT carries: little is sent again after a cut, and
// a request's timeout means something.
const uploadChunk = 8 << 20

// uploadTries is how often in a row an upload may make no progress.
const uploadTries = 6

func platformPath(stamp, rest string) string {
	return "/v1/platforms/" + url.PathEscape(stamp) + rest
}

// Platforms lists the platform images.
func (c *Client) Platforms(ctx context.Context) ([]Platform, error) {
	var out list[Platform]
	err := c.call(ctx, http.MethodGet, "/v1/platforms", nil, &out)
	return out.Items, err
}

// Platform gives one platform image.
func (c *Client) Platform(ctx context.Context, stamp string) (Platform, error) {
	var out Platform
	err := c.call(ctx, http.MethodGet, platformPath(stamp, ""), nil, &out)
	return out, err
}

// AddPlatform registers a signed manifest; the answer says which files are
// missing. It may be called again.
func (c *Client) AddPlatform(ctx context.Context, m SignedManifest) (Platform, error) {
	var out Platform
	err := c.call(ctx, http.MethodPost, "/v1/platforms", m, &out)
	return out, err
}

// DeletePlatform deletes a platform that nothing uses.
func (c *Client) DeletePlatform(ctx context.Context, stamp string) error {
	return c.call(ctx, http.MethodDelete, platformPath(stamp, ""), nil, nil)
}

// SetDefaultPlatform chooses what servers without an assignment boot.
func (c *Client) SetDefaultPlatform(ctx context.Context, stamp string) error {
	return c.call(ctx, http.MethodPut, platformPath(stamp, "/default"), nil, nil)
}

// VerifyPlatform has the head node read a platform's files again and check
// signature and digests. There is no limit of time but ctx's.
func (c *Client) VerifyPlatform(ctx context.Context, stamp string) (Platform, error) {
	var out Platform
	err := c.long(ctx, platformPath(stamp, "/verify"), &out)
	return out, err
}

// CollectPlatforms deletes the platforms and files that nothing uses.
func (c *Client) CollectPlatforms(ctx context.Context) (Collected, error) {
	var out Collected
	err := c.long(ctx, "/v1/platforms/collect", &out)
	return out, err
}

// long posts a request whose work may outlast a request's usual limit.
func (c *Client) long(ctx context.Context, path string, out any) error {
	r, err := c.jsonRequest(http.MethodPost, path, nil)
	if err != nil {
		return err
	}
	r.timeout = c.Timeout // 0 unless somebody set it
	return c.exchange(ctx, r, out)
}

// PlatformKeys lists the keys whose signatures the head node accepts.
func (c *Client) PlatformKeys(ctx context.Context) ([]PlatformKey, error) {
	var out list[PlatformKey]
	err := c.call(ctx, http.MethodGet, "/v1/platform-keys", nil, &out)
	return out.Items, err
}

// AddPlatformKey has the head node accept a key's signatures.
func (c *Client) AddPlatformKey(ctx context.Context, k PlatformKey) error {
	return c.call(ctx, http.MethodPost, "/v1/platform-keys", k, nil)
}

// DeletePlatformKey ends that, by the key's name.
func (c *Client) DeletePlatformKey(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/platform-keys/"+url.PathEscape(name), nil, nil)
}

// FileOffset says how many bytes of a file the head node has, and whether that
// is all of it.
func (c *Client) FileOffset(ctx context.Context, sha256 string) (offset int64, complete bool, err error) {
	return c.fileOffset(ctx, "/v1/files/"+url.PathEscape(sha256))
}

func (c *Client) fileOffset(ctx context.Context, path string) (offset int64, complete bool, err error) {
	res, err := c.send(ctx, request{method: http.MethodHead, path: path, timeout: c.timeout()})
	if res != nil && res.StatusCode == http.StatusNotFound {
		return 0, false, nil // nothing yet; whether it is wanted at all, the PUT says
	}
	if err != nil {
		return 0, false, err
	}
	defer res.Body.Close()
	mark := res.Header.Get("Upload-Offset")
	if mark == "" {
		return res.ContentLength, true, nil
	}
	if offset, err = parseOffset(mark); err != nil {
		return 0, false, fmt.Errorf("read upload offset of %s: %w", path, err)
	}
	return offset, res.ContentLength > 0 && offset == res.ContentLength, nil
}

func parseOffset(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("upload offset %q: want a number of bytes", s)
	}
	return n, nil
}

// Upload sends a file's bytes to the head node, from where an earlier try ended.
// After a cut it asks where to go on, with growing delays, as long as there is
// progress. The callback, when not nil, gets the bytes the head node has.
func (c *Client) Upload(ctx context.Context, f File, src io.ReaderAt, progress func(done int64)) error {
	return c.upload(ctx, "/v1/files/"+url.PathEscape(f.SHA256), f.Name, f.Size, src, progress)
}

func (c *Client) upload(ctx context.Context, path, name string, size int64, src io.ReaderAt, progress func(done int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	best, tries := int64(-1), 0
	for {
		offset, err := c.uploadFrom(ctx, path, size, src, progress)
		if err == nil {
			progress(size)
			return nil
		}
		if !again(err) || ctx.Err() != nil {
			return fmt.Errorf("upload %s: %w", name, err)
		}
		if tries++; offset > best {
			best, tries = offset, 1
		}
		if tries >= uploadTries {
			return fmt.Errorf("upload %s: no progress in %d tries: %w", name, tries, err)
		}
		if err := pause(ctx, c.retryDelay(tries)); err != nil {
			return fmt.Errorf("upload %s: %w", name, err)
		}
	}
}

// uploadFrom asks for the offset and sends chunks until the end or a fault. The
// offset it gives is the last one the head node is known to have.
func (c *Client) uploadFrom(ctx context.Context, path string, size int64, src io.ReaderAt, progress func(int64)) (int64, error) {
	offset, complete, err := c.fileOffset(ctx, path)
	if err != nil || complete {
		return offset, err
	}
	if offset > size {
		return offset, fmt.Errorf("the head node has %d bytes of a file of %d; delete there what it belongs to, and import it again", offset, size)
	}
	for progress(offset); offset < size; progress(offset) {
		n := min(uploadChunk, size-offset)
		res, err := c.send(ctx, request{
			method: http.MethodPut,
			path:   path,
			header: http.Header{
				"Content-Type":  {"application/octet-stream"},
				"Content-Range": {fmt.Sprintf("bytes %d-%d/%d", offset, offset+n-1, size)},
			},
			body:    io.NewSectionReader(src, offset, n),
			length:  n,
			timeout: c.timeout() + 2*time.Minute, // the last one waits for the digest
		})
		if res != nil {
			_ = res.Body.Close()
		}
		if err != nil {
			return offset, err
		}
		offset += n
	}
	return offset, nil
}

// again reports whether an upload may go on after an error: the connection
// broke, the head node is busy, or somebody else uploaded the same bytes.
func again(err error) bool {
	var p *Problem
	if errors.As(err, &p) {
		return p.Status == http.StatusConflict || p.Status == http.StatusServiceUnavailable || p.Status == http.StatusBadGateway || p.Status == http.StatusGatewayTimeout
	}
	var u *UnreachableError
	return errors.As(err, &u)
}

func (c *Client) retryDelay(tries int) time.Duration {
	d := c.Retry
	if d <= 0 {
		d = time.Second
	}
	return d << min(tries-1, 4)
}

// pause waits, or gives the reason why ctx ended first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return canceled(ctx)
		}
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
