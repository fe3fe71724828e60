package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"time"

	"nereid/api"
)

// Doer sends a request; *http.Client is one. It is an interface so that a small
// program can do without that client's TLS, proxies and HTTP/2.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Fetcher gets files over HTTP. With nothing set but Client it tries for ever,
// with delays from 1 s to 60 s, and cuts a transfer that is silent for 30 s.
type Fetcher struct {
	Client   Doer                                       // without an overall time limit, as http.DefaultClient
	Backoff  Backoff                                    // between attempts; starts again whenever bytes came
	Attempts int                                        // in a row without a byte; 0: until the context ends
	Idle     time.Duration                              // silence after which a transfer is cut; 0: 30 s
	Progress func(Progress)                             // about five times a second, and at the end
	Retry    func(err error, wait time.Duration)        // before each wait
	Now      func() time.Time                           // nil: time.Now
	Sleep    func(context.Context, time.Duration) error // nil: wait on a timer
}

// Progress is how far a transfer has come.
type Progress struct {
	Bytes, Total int64
	Rate         float64 // bytes per second since the transfer began
	Elapsed      time.Duration
}

// Sink is where a file is written; *os.File is one. Truncate(0) starts again.
type Sink interface {
	io.WriterAt
	Truncate(size int64) error
}

// StatusError is an answer other than the file. Body is the server's sentence.
type StatusError struct {
	Status int
	Body   string
}

// Error gives the server's sentence, or the status when it said nothing.
func (e *StatusError) Error() string {
	if e.Body == "" {
		return fmt.Sprintf("the server answers %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("the server answers %d: %s", e.Status, e.Body)
}

// temporary says whether asking again can help by itself.
func (e *StatusError) temporary() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}

// errStalled ends a transfer that is silent for too long.
var errStalled = errors.New("no byte came for too long")

// sinkError is a write that went wrong on this side; asking again does not help.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return "write: " + e.err.Error() }
func (e *sinkError) Unwrap() error { return e.err }

// Fetch gets url, which must be file, and writes it to w. After a cut it goes on
// where it was (Range, with If-Range); a server that then sends the whole file is
// read from its beginning again. It returns nil only when size and digest are
// right. *DigestError, *SizeError and a *StatusError below 500 are final.
func (f *Fetcher) Fetch(ctx context.Context, url string, file api.File, w Sink) error {
	if err := CheckDigest(file.SHA256); err != nil {
		return fmt.Errorf("fetch %s: %w", file.Name, err)
	}
	t := &transfer{f: f, url: url, file: file, w: w, sum: sha256.New(), began: f.now()}
	if err := w.Truncate(0); err != nil {
		return fmt.Errorf("fetch %s: %w", file.Name, err)
	}
	if err := f.retry(ctx, func() (bool, error) { return t.attempt(ctx) }); err != nil {
		return fmt.Errorf("fetch %s after %d of %d bytes: %w", file.Name, t.have, file.Size, err)
	}
	if got := hex.EncodeToString(t.sum.Sum(nil)); got != file.SHA256 {
		return fmt.Errorf("fetch %s: %w", file.Name, &DigestError{Want: file.SHA256, Got: got})
	}
	t.report(true)
	return nil
}

// Get reads a small body of at most limit bytes, with the same retries.
func (f *Fetcher) Get(ctx context.Context, url string, limit int64) ([]byte, error) {
	var body []byte
	err := f.retry(ctx, func() (bool, error) {
		actx, cancel := context.WithTimeoutCause(ctx, f.idle(), errStalled)
		defer cancel()
		req, err := http.NewRequestWithContext(actx, http.MethodGet, url, nil)
		if err != nil {
			return false, &final{err}
		}
		resp, err := f.Client.Do(req)
		if err != nil {
			return false, cause(actx, err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return false, statusError(resp)
		}
		body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if err != nil {
			return false, cause(actx, err)
		}
		if int64(len(body)) > limit {
			return false, &final{&SizeError{Want: limit, Got: -1}}
		}
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", url, err)
	}
	return body, nil
}

// final marks an error that trying again does not mend.
type final struct{ err error }

func (e *final) Error() string { return e.err.Error() }
func (e *final) Unwrap() error { return e.err }

// retry runs attempt until it succeeds, fails for good, or ctx ends. attempt says
// whether it got on.
func (f *Fetcher) retry(ctx context.Context, attempt func() (progress bool, err error)) error {
	back := f.Backoff
	back.Reset()
	for fails := 0; ; {
		progress, err := attempt()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		var fin *final
		if errors.As(err, &fin) {
			return fin.err
		}
		var st *StatusError
		var sink *sinkError
		if errors.As(err, &st) && !st.temporary() || errors.As(err, &sink) {
			return err
		}
		if progress {
			fails = 0
			back.Reset()
		}
		fails++
		if f.Attempts > 0 && fails >= f.Attempts {
			return err
		}
		wait := back.Next()
		if f.Retry != nil {
			f.Retry(err, wait)
		}
		pause := f.Sleep
		if pause == nil {
			pause = sleep
		}
		if serr := pause(ctx, wait); serr != nil {
			return errors.Join(serr, err)
		}
	}
}

// transfer is one file on its way; its hash always covers the first have bytes of w.
type transfer struct {
	f        *Fetcher
	url      string
	file     api.File
	w        Sink
	sum      hash.Hash
	have     int64
	best     int64 // most that was ever there; less is no progress
	etag     string
	began    time.Time
	reported time.Time
}

// attempt asks for what is missing and writes what comes.
func (t *transfer) attempt(ctx context.Context) (progress bool, err error) {
	if t.have == t.file.Size {
		return true, nil
	}
	actx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := t.f.idle()
	watch := time.AfterFunc(idle, func() { cancel(errStalled) })
	defer watch.Stop()

	req, err := http.NewRequestWithContext(actx, http.MethodGet, t.url, nil)
	if err != nil {
		return false, &final{err}
	}
	req.Header.Set("Accept-Encoding", "identity")
	if t.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", t.have))
		if t.etag != "" {
			req.Header.Set("If-Range", t.etag)
		}
	}
	resp, err := t.f.Client.Do(req)
	if err != nil {
		return false, cause(actx, err)
	}
	defer resp.Body.Close()
	if err := t.begin(resp); err != nil {
		return false, err
	}
	err = t.copy(resp.Body, func() { watch.Reset(idle) }, cancel)
	if err != nil {
		err = cause(actx, err)
	}
	progress = t.have > t.best
	t.best = max(t.best, t.have)
	return progress, err
}

// begin looks at the header of an answer and makes ready for its body.
func (t *transfer) begin(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK:
		if err := t.restart(); err != nil {
			return err
		}
		if resp.ContentLength >= 0 && resp.ContentLength != t.file.Size {
			return &final{&SizeError{Want: t.file.Size, Got: resp.ContentLength}}
		}
	case http.StatusPartialContent:
		var first, last, total int64
		h := resp.Header.Get("Content-Range")
		if _, err := fmt.Sscanf(h, "bytes %d-%d/%d", &first, &last, &total); err != nil || first != t.have || last < first {
			if rerr := t.restart(); rerr != nil {
				return rerr
			}
			return fmt.Errorf("the server sent %q when asked to go on; starting again", h)
		}
		if total != t.file.Size {
			return &final{&SizeError{Want: t.file.Size, Got: total}}
		}
	case http.StatusRequestedRangeNotSatisfiable:
		if err := t.restart(); err != nil {
			return err
		}
		return errors.New("the server cannot go on where the transfer was cut; starting again")
	default:
		return statusError(resp)
	}
	if tag := resp.Header.Get("ETag"); strings.HasPrefix(tag, `"`) {
		t.etag = tag // strong ones only: RFC 9110, section 13.1.5
	}
	return nil
}

// restart forgets what came.
func (t *transfer) restart() error {
	if t.have == 0 {
		return nil
	}
	t.have, t.etag = 0, ""
	t.sum.Reset()
	if err := t.w.Truncate(0); err != nil {
		return &sinkError{err}
	}
	return nil
}

// copy writes a body behind what is there, and hashes it. stop makes a read of
// the body return.
func (t *transfer) copy(body io.Reader, alive func(), stop context.CancelCauseFunc) error {
	err := readAhead(body, stop, func(p []byte) error {
		alive()
		if t.have+int64(len(p)) > t.file.Size {
			return &final{&SizeError{Want: t.file.Size, Got: -1}}
		}
		if _, err := t.w.WriteAt(p, t.have); err != nil {
			return &sinkError{err}
		}
		t.sum.Write(p)
		t.have += int64(len(p))
		t.report(false)
		return nil
	})
	if err == nil && t.have < t.file.Size {
		return io.ErrUnexpectedEOF
	}
	return err
}

// report tells the progress callback, not too often.
func (t *transfer) report(end bool) {
	if t.f.Progress == nil {
		return
	}
	now := t.f.now()
	if !end && now.Sub(t.reported) < 200*time.Millisecond {
		return
	}
	t.reported = now
	p := Progress{Bytes: t.have, Total: t.file.Size, Elapsed: now.Sub(t.began)}
	if s := p.Elapsed.Seconds(); s > 0 {
		p.Rate = float64(t.have) / s
	}
	t.f.Progress(p)
}

func (f *Fetcher) idle() time.Duration {
	if f.Idle > 0 {
		return f.Idle
	}
	return 30 * time.Second
}

func (f *Fetcher) now() time.Time {
	if f.Now != nil {
		return f.Now()
	}
	return time.Now()
}

// cause prefers why a request was cancelled over that it was.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && ctx.Err() != nil {
		return c
	}
	return err
}

// statusError reads the sentence of a refusal.
func statusError(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 2048))
	if err != nil {
		b = nil // the status alone says enough
	}
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, string(b))
	return &StatusError{Status: resp.StatusCode, Body: strings.TrimSpace(text)}
}
