package headnode

import (
	"context"
	"testing"

	"nereid/headnode/store"
)

// A head node that opens the store of an earlier release indexes the tokens of boots.
func TestOldTokensAreIndexed(t *testing.T) {
	ctx, dir := context.Background(), initDir(t, 250)
	open := func() *Server {
		t.Helper()
		s, err := Open(ctx, Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	err := s.store.Update(ctx, func(tx store.Tx) error {
		if err := tx.Delete("token/indexed"); err != nil {
			return err
		}
		return tx.Put("token/boot/abc", []byte(`{"boot_id":"abc","mac":"52:54:00:00:00:01","hash":"00","expires":"2026-11-30T08:15:00Z"}`))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	err = s.store.View(ctx, func(tx store.Tx) error {
		_, err := tx.Get("token/expiry/20261207T081500Z/abc")
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
