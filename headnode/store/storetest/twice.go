package storetest

import (
	"context"
	"errors"

	"nereid/headnode/store"
)

// Twice returns a store whose Update runs each function twice: first with its
// writes undone, then for good. What is built on a store passes its tests on it.
func Twice(s store.Store) store.Store { return twice{s} }

type twice struct{ store.Store }

var errFirst = errors.New("first of two runs")

func (s twice) Update(ctx context.Context, fn func(store.Tx) error) error {
	err := s.Store.Update(ctx, func(tx store.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return errFirst
	})
	if !errors.Is(err, errFirst) {
		return err
	}
	return s.Store.Update(ctx, fn)
}
