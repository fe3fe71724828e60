package headnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"nereid/headnode/answers"
	"nereid/headnode/packages"
	"nereid/headnode/store"
)

// The files of a data directory.
const (
	storeFile  = "headnode.db"
	caFile     = "ca.pem"
	imagesDir  = "images"          // files of platforms, which the boot server hands out
	diskImages = "instance-images" // files of images of instances
	SocketFile = "headnode.sock"
)

// answersKey holds the answers; a store that has it is initialised.
const answersKey = "headnode/answers"

// ErrInitialised is an Init over a data directory that was initialised before.
var ErrInitialised = errors.New("already initialised")

// ErrNotInitialised is an Open of a data directory that was not.
var ErrNotInitialised = errors.New("not initialised")

// CheckInit says whether Init would refuse dir, without changing anything, so
// that nobody answers ten questions in vain.
func CheckInit(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, storeFile)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	st, err := openStore(ctx, dir)
	if err != nil {
		return err
	}
	defer st.Close()
	return st.View(ctx, func(tx store.Tx) error { return refuseInitialised(tx, dir, nil) })
}

// Init makes a data directory and writes the answers and sample packages into it, in
// one transaction: killed at any point, it was not initialised or it was in full.
func Init(ctx context.Context, dir string, a answers.Answers) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	st, err := openStore(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return st.Update(ctx, func(tx store.Tx) error {
		if err := refuseInitialised(tx, dir, &a); err != nil {
			return err
		}
		if err := packages.Samples(tx, time.Now()); err != nil {
			return err
		}
		return store.Put(tx, answersKey, a)
	})
}

func refuseInitialised(tx store.Tx, dir string, want *answers.Answers) error {
	a, found, err := store.Lookup[answers.Answers](tx, answersKey)
	if err != nil {
		return err
	}
	if found {
		err = fmt.Errorf("%s is %w as datacenter %s and stays as it is; start it with: nereid-headnode run --data-dir %s", dir, ErrInitialised, a.Datacenter, dir)
		if want != nil {
			if how := differs(a.Admin, want.Admin); how != nil {
				err = fmt.Errorf("%w; %w", err, how)
			}
		}
		return err
	}
	return nil
}

func openStore(ctx context.Context, dir string) (store.Store, error) {
	st, err := store.OpenBolt(ctx, filepath.Join(dir, storeFile), store.BoltOptions{})
	if errors.Is(err, store.ErrLocked) {
		return nil, fmt.Errorf("%s is used by another nereid-headnode: %w; stop that one first", dir, err)
	}
	return st, err
}

// notInitialised says what to run.
func notInitialised(dir string) error {
	return fmt.Errorf("%s is %w; run first: nereid-headnode init --data-dir %s", dir, ErrNotInitialised, dir)
}
