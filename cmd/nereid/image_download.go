package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	maxDownload   = 20 << 30        // bytes, as images may have
	downloadTries = 6               // in a row, without a byte
	downloadStall = 2 * time.Minute // without a byte
)

// plainSource is where an image came from, without what could be a secret.
func plainSource(from string) string {
	u, err := url.Parse(from)
	if err != nil || u.Scheme == "" {
		return filepath.Base(from)
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// download fetches a URL into a file of the user's cache, and goes on with one that is
// there in part. done removes it.
func (a *app) download(ctx context.Context, from string) (name string, done func(), err error) {
	cache, err := imageCache()
	if err != nil {
		return "", nil, err
	}
	d := &download{url: from, name: filepath.Join(cache, fmt.Sprintf("%x", sha256.Sum256([]byte(from)))), label: filepath.Base(plainSource(from)), delay: time.Second}
	d.bar = a.newBar(d.label, 0)
	defer d.bar.end()
	if err := d.run(ctx); err != nil {
		return "", nil, fmt.Errorf("download %s: %w", plainSource(from), err)
	}
	return d.name, func() { _ = errors.Join(os.Remove(d.name), os.Remove(d.name+".etag")) }, nil
}

// download is one file that comes, maybe in parts.
type download struct {
	url, name, label string
	bar              *bar
	delay            time.Duration // before the first new try
}

// run tries until all came, as long as there is progress.
func (d *download) run(ctx context.Context) error {
	for tries := 0; ; {
		n, err := d.try(ctx)
		if err == nil {
			return nil
		}
		var status *statusError
		if errors.As(err, &status) && status.code < 500 && status.code != http.StatusTooManyRequests || ctx.Err() != nil {
			return err
		}
		if tries++; n > 0 {
			tries = 1
		}
		if tries >= downloadTries {
			return fmt.Errorf("no progress in %d tries: %w", tries, err)
		}
		t := time.NewTimer(d.delay << min(tries-1, 4))
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

// statusError is an answer that is no file.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return "the server answers " + e.text }

// try makes one request, and gives how many bytes came.
func (d *download) try(ctx context.Context) (n int64, err error) {
	f, err := os.OpenFile(d.name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(downloadStall, func() { cancel(fmt.Errorf("no byte came for %v", downloadStall)) })
	defer stalled.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		return 0, err
	}
	etag, _ := os.ReadFile(d.name + ".etag") // none: nothing is known of what is there
	if have > 0 && len(etag) > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
		req.Header.Set("If-Range", string(etag))
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, unwrapURL(err)
	}
	defer res.Body.Close()
	total, err := d.begin(f, res, have)
	if err != nil || total < 0 {
		return 0, err
	}
	have, err = f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	d.bar.total = max(total, 0)
	d.bar.at(have)
	n, err = io.Copy(f, io.LimitReader(&meter{ctx: ctx, r: res.Body, n: have, at: func(at int64) { stalled.Reset(downloadStall); d.bar.at(at) }}, maxDownload+1-have))
	switch {
	case err != nil:
		return n, err
	case have+n > maxDownload:
		return n, fmt.Errorf("it has more than %d bytes, which images may have", int64(maxDownload))
	case total > 0 && have+n != total:
		return n, io.ErrUnexpectedEOF
	}
	return n, f.Sync()
}

// begin puts f where the answer's bytes go, and gives how many there will be in all; 0: it
// is not said; -1: all are there.
func (d *download) begin(f *os.File, res *http.Response, have int64) (int64, error) {
	switch res.StatusCode {
	case http.StatusPartialContent:
		var from, to, total int64
		if _, err := fmt.Sscanf(res.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &total); err != nil || from != have || total < have {
			return 0, fmt.Errorf("the server answers with Content-Range %q to a request from byte %d", res.Header.Get("Content-Range"), have)
		}
		return total, nil
	case http.StatusRequestedRangeNotSatisfiable:
		if size, ok := strings.CutPrefix(res.Header.Get("Content-Range"), "bytes */"); ok && size == strconv.FormatInt(have, 10) {
			return -1, nil
		}
		return 0, errors.Join(&statusError{http.StatusServiceUnavailable, res.Status}, os.Remove(d.name))
	case http.StatusOK:
	default:
		return 0, &statusError{res.StatusCode, res.Status}
	}
	if res.ContentLength > maxDownload {
		return 0, &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("with %d bytes; images have at most %d", res.ContentLength, int64(maxDownload))}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	tag := res.Header.Get("ETag")
	if strings.HasPrefix(tag, "W/") {
		tag = "" // a weak one does not go with ranges (RFC 9110, section 13.1.5)
	}
	return max(res.ContentLength, 0), errors.Join(f.Truncate(0), os.WriteFile(d.name+".etag", []byte(tag), 0o600))
}

// unwrapURL takes the URL out of an error, which may have a secret.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
