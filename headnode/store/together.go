package store

import (
	"fmt"
	"iter"
	"strings"
)

// Together calls fn for 0 to n-1, and reads what all of the calls ask for together: where
// each does Get or GetAll, one GetAll serves them all. So n things that take five reads
// each, one behind the other, cost five reads. The calls take turns, and none runs beside
// another: fn may use what they share, but must hold no lock while it reads. Its Tx is for
// reading; a Scan is not put together with others. The first error, by number, ends all.
func Together(tx Tx, n int, fn func(i int, tx Tx) error) error {
	calls := make([]*call, n)
	defer func() {
		for _, c := range calls {
			if c != nil {
				c.stop()
			}
		}
	}()
	for i := range calls {
		c := &call{base: tx}
		c.next, c.stop = iter.Pull(func(yield func([]string) bool) {
			c.ask = yield
			c.err = fn(i, c)
			c.ended = true
		})
		calls[i] = c
	}
	for waiting := calls; len(waiting) > 0; {
		var asking []*call
		var keys []string
		at := map[string]int{} // of a key in keys
		for _, c := range waiting {
			wants, ok := c.next()
			if !ok {
				if c.err != nil {
					return c.err
				}
				continue
			}
			asking, c.wants = append(asking, c), wants
			for _, key := range wants {
				if _, known := at[key]; !known {
					at[key] = len(keys)
					keys = append(keys, key)
				}
			}
		}
		if waiting = asking; len(keys) == 0 {
			continue
		}
		values, err := tx.GetAll(keys...)
		if err != nil {
			return err
		}
		for _, c := range asking {
			c.got = make([][]byte, len(c.wants))
			for i, key := range c.wants {
				if v := values[at[key]]; v != nil {
					c.got[i] = clone(v) // it is the caller's to change
				}
			}
		}
	}
	return nil
}

// call is one call of Together's function, and its Tx.
type call struct {
	base Tx
	next func() ([]string, bool)
	stop func()
	ask  func([]string) bool

	wants []string
	got   [][]byte
	err   error
	ended bool
}

func (c *call) Get(key string) ([]byte, error) {
	values, err := c.GetAll(key)
	switch {
	case err != nil:
		return nil, err
	case values[0] == nil:
		return nil, fmt.Errorf("get %q: %w", key, ErrNotFound)
	}
	return values[0], nil
}

func (c *call) GetAll(keys ...string) ([][]byte, error) {
	if c.ended || !c.ask(keys) {
		c.ended = true
		return nil, fmt.Errorf("get keys: %w", ErrTxDone)
	}
	return c.got, nil
}

func (c *call) Put(key string, _ []byte) error {
	return fmt.Errorf("put %.64q: %w", key, ErrReadOnly)
}

func (c *call) Delete(key string) error { return fmt.Errorf("delete %.64q: %w", key, ErrReadOnly) }

func (c *call) Scan(prefix, after string) iter.Seq2[Item, error] {
	if c.ended {
		return func(yield func(Item, error) bool) {
			yield(Item{}, fmt.Errorf("scan %q: %w", prefix, ErrTxDone))
		}
	}
	return c.base.Scan(prefix, after)
}

// ScanOf ranges over the keys below prefix+name+"/" of several names, which come in their
// order, by one Scan from the first name to the last: for names that are next to each
// other, as those of a page are, or where there is little between them.
func ScanOf(tx Tx, prefix string, names []string) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if len(names) == 0 {
			return
		}
		first, last := prefix+names[0]+"/", prefix+names[len(names)-1]+"/"
		same := 0
		for same < min(len(first), len(last)) && first[same] == last[same] {
			same++
		}
		after := ""
		if same < len(first) {
			after = first
		}
		at := 0
		for it, err := range tx.Scan(first[:same], after) {
			if err == nil {
				for at < len(names) && !strings.HasPrefix(it.Key, prefix+names[at]+"/") && prefix+names[at]+"/" < it.Key {
					at++
				}
				if at == len(names) {
					return
				}
				if !strings.HasPrefix(it.Key, prefix+names[at]+"/") {
					continue
				}
			}
			if !yield(it, err) || err != nil {
				return
			}
		}
	}
}
