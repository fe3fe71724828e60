package ga

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// chunk is how much of a file is in one message.
const chunk = 48 << 10

// Push writes all of from to a file of the guest's, as root, which has its name when it is
// whole. mode is its permissions; 0: 0644.
func (a *Agent) Push(ctx context.Context, path string, mode uint32, from io.Reader) error {
	next := path + "." + strings.ToLower(rand.Text())
	err := a.write(ctx, next, from)
	if mode == 0 {
		mode = 0o644
	}
	for _, words := range [][]string{{"chmod", strconv.FormatUint(uint64(mode), 8), next}, {"mv", "-fT", next, path}} {
		if err == nil {
			err = a.do(ctx, words)
		}
	}
	if err != nil {
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
		defer cancel()
		_ = a.do(rctx, []string{"rm", "-f", next}) // the error is told
	}
	return err
}

// do runs a program that says nothing when it goes well.
func (a *Agent) do(ctx context.Context, words []string) error {
	var out strings.Builder
	status, err := a.Run(ctx, Program{Command: words}, strings.NewReader(""), &out, &out)
	if err == nil && status != 0 {
		err = fmt.Errorf("%s ended with %d: %.200q", words[0], status, out.String())
	}
	return err
}

func (a *Agent) write(ctx context.Context, path string, from io.Reader) error {
	handle, err := a.open(ctx, path, "w")
	if err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for err == nil {
		var n int
		n, err = io.ReadFull(from, buf)
		if n == 0 {
			break
		}
		var done struct {
			Count int `json:"count"`
		}
		if werr := a.call(ctx, "guest-file-write", map[string]any{"handle": handle, "buf-b64": buf[:n]}, &done); werr != nil {
			err = werr
		} else if done.Count != n {
			err = fmt.Errorf("of %d bytes the guest wrote %d", n, done.Count)
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return errors.Join(err, a.close(ctx, handle))
}

// Pull writes a file of the guest's to to, as root sees it.
func (a *Agent) Pull(ctx context.Context, path string, to io.Writer) error {
	handle, err := a.open(ctx, path, "r")
	if err != nil {
		return err
	}
	for err == nil {
		var part struct {
			Bytes []byte `json:"buf-b64"`
			EOF   bool   `json:"eof"`
		}
		err = a.call(ctx, "guest-file-read", map[string]any{"handle": handle, "count": chunk}, &part)
		if err == nil {
			_, err = to.Write(part.Bytes)
		}
		if err == nil && !part.EOF && len(part.Bytes) == 0 {
			err = errors.New("the guest's agent gives no more of the file, and does not say that it ends")
		}
		if part.EOF {
			break
		}
	}
	return errors.Join(err, a.close(ctx, handle))
}

func (a *Agent) open(ctx context.Context, path, mode string) (handle int64, err error) {
	err = a.call(ctx, "guest-file-open", map[string]any{"path": path, "mode": mode}, &handle)
	return handle, err
}

func (a *Agent) close(ctx context.Context, handle int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	return a.call(ctx, "guest-file-close", map[string]any{"handle": handle}, nil)
}
