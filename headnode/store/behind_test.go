package store

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	bolt "go.etcd.io/bbolt"
)

// TestBehind: Updates that go behind others share a commit; another one waits for one
// of them and for one commit, and not for those that came before it.
func TestBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) {
		s, err := OpenBolt(t.Context(), path, BoltOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var did []string // of the turn's holder
		s.commit = func(tx *bolt.Tx) error {
			did = append(did, "commit")
			return tx.Commit()
		}
		update := func(ctx context.Context, name string, wait <-chan struct{}) {
			err := s.Update(ctx, func(tx Tx) error {
				if wait != nil {
					<-wait
				}
				did = append(did, name)
				return tx.Put(name, nil)
			})
			if err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		behind := Behind(t.Context())
		hold := make(chan struct{})
		go update(behind, "first", hold)
		synctest.Wait()
		for i := range 4 {
			go update(behind, fmt.Sprintf("b%d", i), nil)
			synctest.Wait()
		}
		gone, cancel := context.WithCancel(behind)
		go update(gone, "gone", nil)
		go update(t.Context(), "server", nil)
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(hold)
		synctest.Wait()
		if got, want := strings.Join(did, " "), "first b0 server commit b1 b2 b3 commit"; got != want {
			t.Errorf("done in this order:\n%s\nwant:\n%s", got, want)
		}
	})
}
