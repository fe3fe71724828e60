package images

import (
	"context"
	"io"
	"sync"
)

// Size and number of the buffers between reading and hashing.
const (
	aheadSize  = 256 << 10
	aheadCount = 4
)

// readAhead calls each with what r gives, in order, while the next bytes are
// being read: the network does not wait for the hash. When each fails, stop is
// called with its error and has to make a read of r return. The end of r is no error.
func readAhead(r io.Reader, stop context.CancelCauseFunc, each func([]byte) error) error {
	type chunk struct {
		buf []byte
		n   int
		err error
	}
	free, full := make(chan []byte, aheadCount), make(chan chunk, aheadCount)
	for range aheadCount {
		free <- make([]byte, aheadSize)
	}
	var reader sync.WaitGroup
	defer reader.Wait()
	defer close(free)
	reader.Go(func() {
		for buf := range free {
			n, err := r.Read(buf)
			full <- chunk{buf, n, err} // has room for every buffer there is
			if err != nil {
				return
			}
		}
	})
	for {
		c := <-full
		if c.n > 0 {
			if err := each(c.buf[:c.n]); err != nil {
				stop(err)
				return err
			}
		}
		if c.err == io.EOF {
			return nil
		}
		if c.err != nil {
			return c.err
		}
		free <- c.buf
	}
}
