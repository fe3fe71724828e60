package images

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Get reads an image by its UUID.
func Get(tx store.Tx, uuid string) (_ api.Image, err error) {
	defer named(&err, "read image %s", uuid)
	i, found, err := store.Lookup[api.Image](tx, imagePrefix+strings.ToLower(uuid))
	if err == nil && !found {
		err = missing(uuid)
	}
	return i, err
}

// Find reads an image by its UUID, NAME or NAME@VERSION. Of several with that name it is
// the active one that was published last; when none is active, one that is alone.
func Find(tx store.Tx, id string) (api.Image, error) {
	return find(tx, id, func(api.Image) bool { return true })
}

// FindFor is Find among the images that an account may use. Others are as if they were
// not there.
func FindFor(tx store.Tx, account, id string) (api.Image, error) {
	account = strings.ToLower(account)
	return find(tx, id, func(i api.Image) bool { return Permits(i, account) })
}

func find(tx store.Tx, id string, may func(api.Image) bool) (_ api.Image, err error) {
	defer named(&err, "find image %s", id)
	if uuidRE.MatchString(strings.ToLower(id)) {
		i, err := Get(tx, id)
		if err == nil && !may(i) {
			err = missing(id)
		}
		return i, err
	}
	name, version, versioned := strings.Cut(id, "@")
	if name == "" {
		return api.Image{}, missing(id)
	}
	var active, others []api.Image
	for i, err := range below(tx, nameKey(name), "") {
		switch {
		case err != nil:
			return i, err
		case i.Name != name || versioned && i.Version != version || !may(i):
		case i.State == api.ImageActive:
			active = append(active, i)
		default:
			others = append(others, i)
		}
	}
	switch {
	case len(active) > 0:
		return slices.MaxFunc(active, func(a, b api.Image) int {
			return cmp.Or(a.PublishedAt.Compare(b.PublishedAt), strings.Compare(a.UUID, b.UUID))
		}), nil
	case len(others) == 1:
		return others[0], nil
	case len(others) > 1:
		var uuids []string
		for _, i := range others {
			uuids = append(uuids, i.UUID+", version "+i.Version+", "+i.State)
		}
		return api.Image{}, &api.Problem{Title: "Conflict", Status: 409, Code: api.CodeConflict, Detail: "several images have the name " + id + ", and none is active",
			Errors: uuids[:min(len(uuids), told)], Next: "give the UUID of one"}
	}
	return api.Image{}, missing(id)
}

// Permits says whether an account may use an image, and so see it.
func Permits(i api.Image, account string) bool {
	return i.Public || i.Owner == account || slices.Contains(i.ACL, account)
}

// Usable refuses an image that an account cannot make instances of.
func Usable(i api.Image, account string) error {
	switch {
	case !Permits(i, strings.ToLower(account)):
		return missing(i.UUID)
	case i.State != api.ImageActive:
		next := "activate it first: nereid image activate " + i.UUID
		if i.State == api.ImageCreating || i.State == api.ImageFailed {
			next = "import it again"
		}
		return conflict(next, "image %s (%s) is %s; instances are made from active images", label(i), i.UUID, i.State)
	}
	return nil
}

// SpecOf is an image as a server needs it.
func SpecOf(i api.Image) api.ImageSpec {
	out := api.ImageSpec{UUID: i.UUID, Name: label(i), Type: i.Type, SizeMiB: i.SizeMiB}
	if len(i.Files) > 0 {
		out.File = i.Files[0]
	}
	return out
}

// label is an image for people.
func label(i api.Image) string { return i.Name + "@" + i.Version }

// Filter says which images List gives; zero fields do not limit.
type Filter struct {
	Account string // that may use it
	Owner   string
	State   string
	Name    string
	Type    string
	Origin  string
}

func (f Filter) matches(i api.Image) bool {
	return (f.Account == "" || Permits(i, f.Account)) && (f.Owner == "" || i.Owner == f.Owner) && (f.State == "" || i.State == f.State) &&
		(f.Name == "" || i.Name == f.Name) && (f.Type == "" || i.Type == f.Type) && (f.Origin == "" || i.Origin == f.Origin)
}

// List reads a page of images by UUID: at most limit (0: no limit), behind after. next is
// what to pass as after for the page that follows; it is empty on the last.
func List(tx store.Tx, f Filter, after string, limit int) (_ []api.Image, next string, err error) {
	defer named(&err, "list images")
	f.Account, f.Owner, f.Origin = strings.ToLower(f.Account), strings.ToLower(f.Owner), strings.ToLower(f.Origin)
	prefix := imagePrefix
	switch {
	case f.Name != "":
		prefix = nameKey(f.Name)
	case f.Origin != "":
		prefix = originPrefix + f.Origin + "/"
	case f.Owner != "":
		prefix = ownerPrefix + f.Owner + "/"
	case f.State != "":
		prefix = statePrefix + f.State + "/"
	}
	var out []api.Image
	for i, err := range below(tx, prefix, after) {
		if err != nil {
			return nil, "", err
		}
		if !f.matches(i) {
			continue
		}
		if limit > 0 && len(out) == limit {
			return out, out[limit-1].UUID, nil
		}
		out = append(out, i)
	}
	return out, "", nil
}

// Children are the images that are changes of one.
func Children(tx store.Tx, uuid string) ([]api.Image, error) {
	out, _, err := List(tx, Filter{Origin: uuid}, "", 0)
	return out, err
}

// Create makes an image whose file is still to come; its manifest says what the file will
// be. Of one that is there and is creating or failed, with the same file, the import goes
// on or begins anew.
func Create(tx store.Tx, in api.Image, now time.Time) (_ api.Image, err error) {
	defer named(&err, "create image %s", in.Name)
	i, err := normal(in)
	if err != nil {
		return i, err
	}
	old, found, err := store.Lookup[api.Image](tx, imagePrefix+i.UUID)
	if err != nil {
		return i, err
	}
	if found {
		if !sameFile(old, i) && old.State != api.ImageFailed {
			return i, conflict("give the new image another UUID, or delete that one first", "there is an image %s, %s, with another file (it is %s)", i.UUID, label(old), old.State)
		}
		if old.State == api.ImageCreating {
			i.Created = old.Created
		} else if old.State != api.ImageFailed {
			return i, conflict("use it as it is, or give the new one another UUID", "image %s, %s, is imported already; it is %s", i.UUID, label(old), old.State)
		}
	} else {
		old = api.Image{}
	}
	if err := originFits(tx, i); err != nil {
		return i, err
	}
	i.State, i.Error = api.ImageCreating, ""
	if i.Created.IsZero() {
		i.Created = now
	}
	return put(tx, old, i)
}

func sameFile(a, b api.Image) bool {
	return len(a.Files) == 1 && len(b.Files) == 1 && a.Files[0].Digest == b.Files[0].Digest && a.Files[0].Size == b.Files[0].Size
}

// originFits refuses an image that is a change of one that is not there.
func originFits(tx store.Tx, i api.Image) error {
	if i.Origin == "" {
		return nil
	}
	o, found, err := store.Lookup[api.Image](tx, imagePrefix+i.Origin)
	switch {
	case err != nil:
		return err
	case !found, o.State == api.ImageCreating, o.State == api.ImageFailed:
		return conflict("import image "+i.Origin+" first", "image %s is a change of image %s, whose file is not here", label(i), i.Origin)
	case len(o.Files) != 1 || o.Files[0].Format != api.FormatZFS:
		return conflict("correct the manifest", "image %s is a change of image %s, which is no ZFS stream", label(i), i.Origin)
	}
	return nil
}

// Update changes what may be changed of an image.
func Update(tx store.Tx, uuid string, u api.ImageUpdate) (_ api.Image, err error) {
	defer named(&err, "change image %s", uuid)
	old, err := Get(tx, uuid)
	if err != nil {
		return old, err
	}
	i := old
	set(&i.Name, u.Name)
	set(&i.Version, u.Version)
	set(&i.Public, u.Public)
	set(&i.ACL, u.ACL)
	set(&i.Description, u.Description)
	set(&i.Homepage, u.Homepage)
	set(&i.EULA, u.EULA)
	set(&i.Tags, u.Tags)
	if i, err = normal(i); err != nil {
		return i, err
	}
	return put(tx, old, i)
}

// set changes a field where an update has it.
func set[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}
