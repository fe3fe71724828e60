package storetest

import (
	"context"
	"errors"

	"nereid/headnode/store"
)

// ErrInjected is the error of an Update that Failing had fail.
var ErrInjected = errors.New("injected")

// Failing returns a store whose Updates fail at times: in the middle of their writes, or
// behind all of them. Each Update asks left how many of its writes succeed; less than 0:
// it does not fail.
func Failing(s store.Store, left func() int) store.Store { return failing{s, left} }

type failing struct {
	store.Store
	left func() int
}

func (s failing) Update(ctx context.Context, fn func(store.Tx) error) error {
	return s.Store.Update(ctx, func(tx store.Tx) error {
		left := s.left()
		if err := fn(FailingTx(tx, left)); err != nil {
			return err
		}
		if left >= 0 {
			return ErrInjected
		}
		return nil
	})
}

// FailingTx returns a transaction of which so many writes succeed, and the next fails.
func FailingTx(tx store.Tx, left int) store.Tx { return &failingTx{tx, left} }

type failingTx struct {
	store.Tx
	left int
}

func (t *failingTx) write() error {
	if t.left--; t.left == -1 {
		return ErrInjected
	}
	return nil
}

func (t *failingTx) Put(key string, v []byte) error {
	if err := t.write(); err != nil {
		return err
	}
	return t.Tx.Put(key, v)
}

func (t *failingTx) Delete(key string) error {
	if err := t.write(); err != nil {
		return err
	}
	return t.Tx.Delete(key)
}
