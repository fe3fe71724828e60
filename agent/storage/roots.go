package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nereid/api"
)

// Roots is what a system pool has of images and instances: the root file systems of images
// and of zones, which are clones of images, and likewise the disks of virtual machines. No
// root is ever mounted where somebody sees it; the tree of each is in its folder root.
//
//	zones/IMAGE-partial   an import that is under way, or was cut
//	zones/IMAGE           nereid:image=IMAGE, readonly=on
//	zones/IMAGE@final     what instances are cloned from
//	zones/INSTANCE        nereid:instance=INSTANCE, a clone, with its quota; a virtual
//	                      machine's has its disks below it (CloneDisks)
//
// A dataset is taken for one of these by its name and its property together; everything
// else is left alone. Fields are set before the first call. Methods may be called from
// several goroutines: those that concern one image or instance wait for one another.
type Roots struct {
	// Pool gives the name of the system pool, as Storage.SystemPool does.
	Pool func(ctx context.Context) (string, error)
	// ZFS is what datasets are made with; nil: ZFS{}.
	ZFS Pooled
	// Proc is the folder where processes are; empty: /proc.
	Proc string
	// Dev is the folder where devices are; empty: /dev.
	Dev string
	// Log gets what happened; nil discards.
	Log *slog.Logger

	names keyLock
	pool  atomic.Pointer[string] // that Pool gave last
}

// Names and properties of root file systems.
const (
	rootFolder    = "root"
	finalSnapshot = "final"
	partialSuffix = "-partial"

	propImage    = "nereid:image"    // of an image and of its partial: its UUID
	propInstance = "nereid:instance" // of an instance: its UUID
	propIdle     = "nereid:idle"     // of an image: when its last clone went, seconds since 1970
)

// rootProps is what a dataset with a Linux root file system is made with: extended
// attributes and ACLs as Linux has them (zfsprops(7)), and no mount that anybody makes by
// accident.
func rootProps(more map[string]string) map[string]string {
	p := map[string]string{
		"mountpoint": "legacy", "canmount": "noauto", "xattr": "sa", "acltype": "posixacl", "dnodesize": "auto",
	}
	for k, v := range more {
		p[k] = v
	}
	return p
}

var uuidRE = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// ErrForeign says that a dataset has the name of an image or instance and is none that
// the agent made. It is left as it is.
var ErrForeign = errors.New("the agent did not make this dataset, and leaves it alone")

// FoundImage is an image in the pool.
type FoundImage struct {
	UUID    string
	GUID    string    // of its @final, decimal
	Used    int64     // bytes, without its clones
	Created time.Time // here
	Idle    time.Time // when it was last used, as far as it is known
	Clones  []string  // datasets that are clones of it, sorted
}

// FoundInstance is an instance in the pool.
type FoundInstance struct {
	UUID     string
	Image    string // of which it is a clone, or its first disk; empty: it is none any more
	Used     int64  // bytes, with its snapshots
	QuotaMiB int
	Disks    []FoundDisk // of a virtual machine, by number
	Spec     []byte      // as KeepSpec kept it; nil: none was kept
	Problem  string      // why Spec could not be read

	Snapshots []api.SnapshotStatus // that the agent took, the oldest first
	Rolled    []string             // ids of rollbacks that were carried out or refused, the newest last
	Refused   map[string]bool      // those that were refused
}

// Found is what a pool holds of images and instances, each by UUID.
type Found struct {
	Images    []FoundImage
	Instances []FoundInstance
	Partials  []string // images whose import was cut, and that are not complete
	Foreign   []string // datasets with a name of ours that are not ours
}

func (r *Roots) zfs() Pooled {
	if r.ZFS == nil {
		return ZFS{}
	}
	return r.ZFS
}

func (r *Roots) log() *slog.Logger {
	if r.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return r.Log
}

// dataset is the dataset of an image or instance.
func (r *Roots) dataset(ctx context.Context, uuid string) (string, error) {
	if !uuidRE.MatchString(uuid) {
		return "", fmt.Errorf("%q is no UUID", uuid)
	}
	pool, err := r.Pool(ctx)
	if err != nil {
		return "", err
	}
	r.pool.Store(&pool)
	return pool + "/" + uuid, nil
}

// listed are the properties that Look reads.
func listed() []string {
	return append([]string{"type", "guid", "used", "quota", "volsize", "origin", "creation", "createtxg", propSnapshot, propRolled, propImage, propInstance, propIdle}, specProps()...)
}

// Look lists images and instances, with one command whatever their number.
func (r *Roots) Look(ctx context.Context) (Found, error) {
	pool, err := r.Pool(ctx)
	if err != nil {
		return Found{}, fmt.Errorf("list images and instances: %w", err)
	}
	r.pool.Store(&pool)
	all, err := r.zfs().List(ctx, pool, listed()...)
	if err != nil {
		return Found{}, fmt.Errorf("list images and instances: %w", err)
	}
	return sortOut(pool, all), nil
}

// sortOut says what is what.
func sortOut(pool string, all map[string]map[string]string) Found {
	var f Found
	clones, disks := map[string][]string{}, map[string][]FoundDisk{}
	snapshots := snapshotsOf(pool, all)
	for name, p := range all {
		if image, ok := strings.CutSuffix(p["origin"], "@"+finalSnapshot); ok {
			clones[image] = append(clones[image], name)
		}
		if d, ok := diskOf(name, p); ok {
			disks[path.Dir(name)] = append(disks[path.Dir(name)], d)
		}
	}
	for name, p := range all {
		base := path.Base(name)
		uuid, partial := strings.CutSuffix(base, partialSuffix)
		if path.Dir(name) != pool || strings.Contains(base, "@") || !uuidRE.MatchString(uuid) {
			continue
		}
		final, complete := all[name+"@"+finalSnapshot]
		switch {
		case p[propImage] == uuid && (partial || !complete):
			f.Partials = append(f.Partials, uuid)
		case p[propImage] == uuid:
			slices.Sort(clones[name])
			created := seconds(p["creation"])
			f.Images = append(f.Images, FoundImage{
				UUID: uuid, GUID: final["guid"], Used: number(p["used"]), Created: created,
				Idle: later(created, seconds(p[propIdle])), Clones: clones[name],
			})
		case p[propInstance] == uuid && !partial:
			i := FoundInstance{UUID: uuid, Used: number(p["used"]), QuotaMiB: int(number(p["quota"]) >> 20), Disks: disks[name], Snapshots: snapshots[name]}
			i.Rolled, i.Refused = rolled(p[propRolled])
			slices.SortFunc(i.Disks, byNumber)
			origin := p["origin"]
			if len(i.Disks) > 0 {
				origin = all[name+"/"+i.Disks[0].Name]["origin"]
			}
			if image, ok := strings.CutSuffix(strings.TrimPrefix(origin, pool+"/"), "@"+finalSnapshot); ok {
				i.Image = image
			}
			var err error
			if i.Spec, err = readSpec(p); err != nil {
				i.Problem = err.Error()
			}
			f.Instances = append(f.Instances, i)
		default:
			f.Foreign = append(f.Foreign, name)
		}
	}
	slices.SortFunc(f.Images, func(a, b FoundImage) int { return strings.Compare(a.UUID, b.UUID) })
	slices.SortFunc(f.Instances, func(a, b FoundInstance) int { return strings.Compare(a.UUID, b.UUID) })
	slices.Sort(f.Partials)
	f.Partials = slices.Compact(f.Partials)
	slices.Sort(f.Foreign)
	return f
}

// number is a property of bytes; one that is missing is 0.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// seconds is a property of seconds since 1970; one that is missing is no time.
func seconds(s string) time.Time {
	if n := number(s); n > 0 {
		return time.Unix(n, 0).UTC()
	}
	return time.Time{}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Tidy destroys what imports left that were cut: datasets with an image's name, with or
// without -partial, and its property, that are not complete. Nothing else is destroyed.
func (r *Roots) Tidy(ctx context.Context, f Found) error {
	var errs []error
	for _, uuid := range f.Partials {
		errs = append(errs, r.named(ctx, uuid, func(name string) error {
			_, err := r.clear(ctx, uuid, name)
			return err
		}))
	}
	return errors.Join(errs...)
}

// named calls fn with the dataset of an image or instance, while nobody else changes it.
func (r *Roots) named(ctx context.Context, uuid string, fn func(name string) error) error {
	name, err := r.dataset(ctx, uuid)
	if err != nil {
		return err
	}
	unlock, err := r.names.lock(ctx, uuid)
	if err != nil {
		return err
	}
	defer unlock()
	return fn(name)
}

// keyLock is a lock for each name. Its zero value is ready.
type keyLock struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits until nobody holds the name, or ctx ends.
func (k *keyLock) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		busy, ok := k.held[name]
		if !ok {
			done := make(chan struct{})
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			k.held[name] = done
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, name)
				k.mu.Unlock()
				close(done)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
