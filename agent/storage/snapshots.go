package storage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"nereid/api"
)

// A snapshot of an instance is one of its dataset and of all below it, taken in one
// transaction. What it is is kept with it:
//
//	zones/INSTANCE@nereid-ID         nereid:snapshot={"name":...}
//	zones/INSTANCE/disk0@nereid-ID   the same
//
// Other snapshots of an instance's datasets are somebody else's, and stay.
const (
	snapshotPrefix = "nereid-"
	propSnapshot   = "nereid:snapshot"
)

var snapshotID = regexp.MustCompile(`^[0-9a-f]{8,32}$`)

// Moments takes and destroys the snapshots of a dataset and all below it together. Errors
// are as those of Datasets.
type Moments interface {
	// SnapshotAll takes them at one moment, each with these properties of users.
	SnapshotAll(ctx context.Context, dataset, snapshot string, props map[string]string) error
	// DestroyAll destroys them in one transaction, all or none. That none is there is no
	// error.
	DestroyAll(ctx context.Context, dataset, snapshot string) error
}

// keptSnapshot is what is kept with a snapshot.
type keptSnapshot struct {
	Name        string `json:"name"`
	Consistency string `json:"consistency,omitempty"`
	Schedule    string `json:"schedule,omitempty"`
}

// snapshotName is the name of an instance's snapshot, without the dataset.
func snapshotName(id string) (string, error) {
	if !snapshotID.MatchString(id) {
		return "", fmt.Errorf("%.64q is no id of a snapshot", id)
	}
	return snapshotPrefix + id, nil
}

// TakeSnapshot takes a snapshot of all datasets of an instance, and keeps with it what it
// is. One of that id that is there is left as it is. It gives what is there then.
func (r *Roots) TakeSnapshot(ctx context.Context, instance string, s api.SnapshotStatus) (taken api.SnapshotStatus, err error) {
	taken = s
	snapshot, err := snapshotName(s.ID)
	if err == nil {
		err = r.named(ctx, instance, func(name string) error {
			text, err := json.Marshal(keptSnapshot{Name: s.Name, Consistency: s.Consistency, Schedule: s.Schedule})
			if err != nil {
				return err
			}
			err = r.zfs().SnapshotAll(ctx, name, snapshot, map[string]string{propSnapshot: string(text)})
			if errors.Is(err, fs.ErrExist) {
				taken, err = r.findSnapshot(ctx, name, snapshot)
			}
			return err
		})
	}
	if err != nil {
		return taken, fmt.Errorf("take snapshot %s of instance %s: %w", s.Name, instance, err)
	}
	taken.State, taken.Reason = api.SnapshotCreated, ""
	return taken, nil
}

// findSnapshot reads what is kept with a snapshot of a dataset.
func (r *Roots) findSnapshot(ctx context.Context, name, snapshot string) (api.SnapshotStatus, error) {
	all, err := r.zfs().List(ctx, name, "creation", propSnapshot)
	if err != nil {
		return api.SnapshotStatus{}, err
	}
	full := name + "@" + snapshot
	s, ok := snapshotOfInstance(full, all[full])
	if !ok {
		return s, fmt.Errorf("%s: %w", full, ErrForeign)
	}
	return s, nil
}

// DropSnapshot destroys a snapshot of all datasets of an instance. One that is not there is
// no error; one that is held, or that something is a clone of, stays as it is and the error
// says which: it is EBUSY.
func (r *Roots) DropSnapshot(ctx context.Context, instance, id string) error {
	snapshot, err := snapshotName(id)
	if err == nil {
		err = r.named(ctx, instance, func(name string) error {
			err := r.zfs().DestroyAll(ctx, name, snapshot)
			if isBusy(err) {
				return errors.Join(r.whyKept(ctx, name, snapshot), err)
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("destroy a snapshot of instance %s: %w", instance, err)
	}
	return nil
}

// whyKept says what keeps a snapshot: clones and holds. Nil: it is not known.
func (r *Roots) whyKept(ctx context.Context, name, snapshot string) error {
	all, err := r.zfs().List(ctx, name, "clones", "userrefs")
	if err != nil {
		return nil // the error that it is for says less
	}
	var why []error
	for _, full := range slices.Sorted(maps.Keys(all)) {
		if !strings.HasSuffix(full, "@"+snapshot) {
			continue
		}
		if clones := all[full]["clones"]; clones != "" {
			why = append(why, fmt.Errorf("%s is what %s was cloned from; it goes when that is gone", full, strings.ReplaceAll(clones, ",", ", ")))
		}
		if n := number(all[full]["userrefs"]); n > 0 {
			why = append(why, fmt.Errorf("%s is held (zfs holds); it goes when it is released", full))
		}
	}
	return errors.Join(why...)
}

// snapshotOfInstance is the snapshot that a name with its properties is, where it is one of
// an instance's dataset.
func snapshotOfInstance(full string, p map[string]string) (s api.SnapshotStatus, ok bool) {
	_, snapshot, _ := strings.Cut(full, "@")
	id, ours := strings.CutPrefix(snapshot, snapshotPrefix)
	var kept keptSnapshot
	if !ours || !snapshotID.MatchString(id) || json.Unmarshal([]byte(p[propSnapshot]), &kept) != nil {
		return s, false
	}
	return api.SnapshotStatus{ID: id, Name: kept.Name, State: api.SnapshotCreated, Consistency: kept.Consistency, Schedule: kept.Schedule,
		Created: seconds(p["creation"])}, true
}

// snapshotsOf are the snapshots of instances among datasets of a pool, by the instance's
// dataset, the oldest first.
func snapshotsOf(pool string, all map[string]map[string]string) map[string][]api.SnapshotStatus {
	found := map[string][]api.SnapshotStatus{}
	txg := map[string]int64{} // of each id, when it was taken
	for full, p := range all {
		name, _, is := strings.Cut(full, "@")
		if !is || path.Dir(name) != pool {
			continue
		}
		if s, ok := snapshotOfInstance(full, p); ok {
			txg[name+s.ID] = number(p["createtxg"])
			found[name] = append(found[name], s)
		}
	}
	for name, some := range found {
		slices.SortFunc(some, func(a, b api.SnapshotStatus) int {
			return cmp.Or(cmp.Compare(txg[name+a.ID], txg[name+b.ID]), strings.Compare(a.ID, b.ID))
		})
	}
	return found
}

// SnapshotAll implements Moments. go-zfs's has no properties.
func (z ZFS) SnapshotAll(ctx context.Context, dataset, snapshot string, props map[string]string) error {
	args := []string{"snapshot", "-r"}
	for _, k := range slices.Sorted(maps.Keys(props)) {
		args = append(args, "-o", k+"="+props[k])
	}
	_, err := z.run(ctx, nil, append(args, dataset+"@"+snapshot)...)
	return err
}

// DestroyAll implements Moments. -r takes those of this very name, below the dataset.
func (z ZFS) DestroyAll(ctx context.Context, dataset, snapshot string) error {
	_, err := z.run(ctx, nil, "destroy", "-r", dataset+"@"+snapshot)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
