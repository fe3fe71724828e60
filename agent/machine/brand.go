package machine

import (
	"context"
	"strings"

	"nereid/agent/machine/zone"
	"nereid/api"
)

// brand is what differs between the kinds of instances. All else of an instance's life is
// the same for each.
type brand struct {
	name   string
	prefix string // of the names of its units
	// refuse says why an instance cannot be what is wanted on this server; no try will
	// change that.
	refuse func(spec *api.InstanceSpec, s seen) error
	// made reports whether all is on the pool that its image is needed for.
	made func(spec *api.InstanceSpec, s seen) bool
	// make makes what it has on the pool.
	make func(spec *api.InstanceSpec) step
	// grow changes what it has on the pool.
	grow func(kept, spec *api.InstanceSpec) []step
	// files are those that it is started with.
	files func(spec *api.InstanceSpec, s seen) files
	// limits are those that its unit may get while it runs with others.
	limits func(running, wanted api.Limits) api.Limits
	// properties are its unit's, whose files are in dir.
	properties func(uuid, dir string, l api.Limits) ([]property, error)
	// beside is a unit that its unit requires, and that ends with it; no name: there is
	// none. Nil: none of the brand has one.
	beside func(uuid, dir string) (name string, list []property, err error)
	// ready waits for what has to be there before its unit starts. Nil: nothing.
	ready func(ctx context.Context, dir string) error
	// bounds are the properties of its unit that a package sets.
	bounds func(l api.Limits) []property
	// signals says why it takes no signals but SIGKILL; empty: it takes all.
	signals string
}

// brands are all that there are.
func brands() []*brand { return []*brand{zones(), machines()} }

// brandOf is the brand of a name; nil: there is none.
func brandOf(name string) *brand {
	for _, b := range brands() {
		if b.name == name {
			return b
		}
	}
	return nil
}

// unit is the name of the unit of an instance.
func (b *brand) unit(uuid string) string { return b.prefix + uuid + unitSuffix }

const unitSuffix = ".service"

// unitOf is the instance, and its brand, whose unit has a name.
func unitOf(name string) (b *brand, uuid string, ok bool) {
	for _, b := range brands() {
		if uuid, ok := strings.CutPrefix(name, b.prefix); ok {
			uuid, ok = strings.CutSuffix(uuid, unitSuffix)
			return b, uuid, ok && uuid != ""
		}
	}
	return nil, "", false
}

// zones are Linux zones.
func zones() *brand {
	return &brand{
		name: api.BrandLX, prefix: "nereid-zone-",
		refuse: func(*api.InstanceSpec, seen) error { return nil },
		made:   func(_ *api.InstanceSpec, s seen) bool { return s.dataset },
		make:   func(spec *api.InstanceSpec) step { return stepClone{spec.Image, spec.QuotaMiB} },
		grow: func(kept, spec *api.InstanceSpec) []step {
			if kept == nil || kept.QuotaMiB == spec.QuotaMiB {
				return nil
			}
			return []step{stepQuota{spec.QuotaMiB}}
		},
		files: func(spec *api.InstanceSpec, s seen) files {
			h, in, g := filesOf(spec, s.base(), s.server)
			return files{host: h, guest: g, inside: &in}
		},
		limits:     func(_, wanted api.Limits) api.Limits { return wanted },
		properties: func(uuid, dir string, l api.Limits) ([]property, error) { return properties(uuid, dir, l), nil },
		bounds:     limits,
	}
}

// brand is an instance's: what is there of it says, or what is wanted of it does.
func (i *instance) brand(spec *api.InstanceSpec) *brand {
	name := i.kind
	for _, s := range []*api.InstanceSpec{spec, i.kept} {
		if name == "" && s != nil {
			name = s.Brand
		}
	}
	if b := brandOf(name); b != nil {
		return b
	}
	return zones()
}

// kindOf is the brand of the files that the agent left.
func kindOf(h zone.Host) string {
	if h.Brand == "" {
		return api.BrandLX
	}
	return h.Brand
}
