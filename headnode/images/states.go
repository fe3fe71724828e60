package images

import (
	"slices"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// AbandonedAfter is how long an import may have stood still before Collect takes it for
// given up.
const AbandonedAfter = 24 * time.Hour

// Checked says that all of an image's file is there and was read: one that was creating
// may be activated from then on. f is what the file was found to be. revision is that of
// the image that was checked; when it was changed meanwhile, the check is to be repeated.
func Checked(tx store.Tx, uuid, revision string, f api.ImageFile) (_ api.Image, err error) {
	defer named(&err, "note that image %s was checked", uuid)
	old, err := Get(tx, uuid)
	if err != nil || old.State != api.ImageCreating {
		return old, err
	}
	if old.Revision != revision {
		return old, conflict("check it again", "image %s was changed while its file was checked", label(old))
	}
	i := old
	i.State, i.Files = api.ImageUnactivated, []api.ImageFile{f}
	return put(tx, old, i)
}

// Fail says that an image cannot be used, since its file may not be, or was damaged. Its
// bytes can be removed. An image that was changed since that revision stays as it is.
func Fail(tx store.Tx, uuid, revision, why string) (_ api.Image, err error) {
	defer named(&err, "note that image %s failed", uuid)
	old, err := Get(tx, uuid)
	if err != nil || old.Revision != revision {
		return old, err
	}
	i := old
	i.State, i.Error = api.ImageFailed, why
	return put(tx, old, i)
}

// Activate offers an image to those who may use it.
func Activate(tx store.Tx, uuid string, now time.Time) (_ api.Image, err error) {
	defer named(&err, "activate image %s", uuid)
	old, err := Get(tx, uuid)
	if err != nil {
		return old, err
	}
	switch old.State {
	case api.ImageActive:
		return old, nil
	case api.ImageCreating:
		return old, conflict("run its import again; it goes on where it was", "image %s cannot be activated: its file is not all here", label(old))
	case api.ImageFailed:
		return old, conflict("import it again", "image %s cannot be activated: it failed: %s", label(old), old.Error)
	}
	i := old
	i.State = api.ImageActive
	if i.PublishedAt.IsZero() {
		i.PublishedAt = now.UTC().Truncate(time.Second)
	}
	return put(tx, old, i)
}

// Disable ends that new instances are made from an image. Those that are there run on.
func Disable(tx store.Tx, uuid string) (_ api.Image, err error) {
	defer named(&err, "disable image %s", uuid)
	old, err := Get(tx, uuid)
	if err != nil {
		return old, err
	}
	switch old.State {
	case api.ImageDisabled:
		return old, nil
	case api.ImageCreating, api.ImageFailed:
		return old, conflict("let its import end first, or import it again", "image %s cannot be disabled: nobody can use it, as it is %s", label(old), old.State)
	}
	i := old
	i.State = api.ImageDisabled
	return put(tx, old, i)
}

// Delete removes an image that no instance uses and that is no other one's origin. users
// are the instances, as a refusal names them.
func Delete(tx store.Tx, uuid string, users []string) (_ api.Image, err error) {
	defer named(&err, "delete image %s", uuid)
	i, err := Get(tx, uuid)
	if err != nil {
		return i, err
	}
	if users, err = needed(tx, i, users); err != nil {
		return i, err
	}
	if len(users) > 0 {
		return i, inUse("to keep new instances from it, disable it: nereid image disable "+i.UUID, users, "image %s is in use", label(i))
	}
	return i, drop(tx, i)
}

// needed adds the images that are changes of one to its users.
func needed(tx store.Tx, i api.Image, users []string) ([]string, error) {
	children, err := Children(tx, i.UUID)
	users = slices.Clone(users)
	for _, c := range children {
		users = append(users, "image "+label(c)+" ("+c.UUID+") is a change of it")
	}
	return users, err
}

// Collectable are the images that are of no more use: failed ones, imports that stood
// still for AbandonedAfter, and disabled ones that nothing uses. moved is when the file of
// an import grew last; zero: never. users are as Delete has them.
func Collectable(tx store.Tx, now time.Time, moved func(uuid string) time.Time, users func(uuid string) ([]string, error)) (_ []api.Image, err error) {
	defer named(&err, "look for images that are of no use")
	var out []api.Image
	for _, state := range []string{api.ImageFailed, api.ImageCreating, api.ImageDisabled} {
		for i, err := range below(tx, statePrefix+state+"/", "") {
			if err != nil {
				return nil, err
			}
			last := i.Created
			if m := moved(i.UUID); m.After(last) {
				last = m
			}
			if state == api.ImageCreating && now.Sub(last) < AbandonedAfter {
				continue
			}
			uses, err := users(i.UUID)
			if err == nil {
				uses, err = needed(tx, i, uses)
			}
			if err != nil {
				return nil, err
			}
			if len(uses) == 0 {
				out = append(out, i)
			}
		}
	}
	return out, nil
}
