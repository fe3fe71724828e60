package headnode

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"nereid/api"
	catalog "nereid/headnode/images"
	"nereid/headnode/instances"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/packages"
	"nereid/headnode/placement"
	"nereid/headnode/platforms"
	"nereid/headnode/store"
)

// A create decides on what is known of all servers in memory, which may be a moment
// old. One transaction then reads of the server that was chosen what it has given out,
// and writes; creates on two servers have no key in common.

// How often a create decides anew when what it chose was given out meanwhile, and how
// many of the best servers a transaction tries.
const (
	decideAgain = 4
	tryServers  = 4
)

// errMoved says that none of the servers that were chosen fits any more.
var errMoved = errors.New("what was chosen is given out meanwhile")

// plan is a create that was checked.
type plan struct {
	instance api.Instance
	image    api.Image
	nics     []api.NetworkNIC
	want     placement.Want
	checked  time.Time          // that was done; zero: not known
	best     []placement.Server // that a transaction tries, the best first
}

// createInstance places an instance and makes it.
func (s *Server) createInstance(ctx context.Context, in api.InstanceCreate) (api.Instance, error) {
	if in.UUID == "" {
		in.UUID = instances.NewUUID()
	}
	begun := s.now()
	for again := range decideAgain {
		p, d, err := s.choose(ctx, in)
		spent := steps(begun, p.checked, s.now())
		if err == nil && len(d.Best) == 0 {
			if again == 0 { // what is in memory may be old
				s.hosts.forget()
				continue
			}
			err = noServer(d)
		}
		if err != nil {
			return api.Instance{}, s.update(ctx, func(store.Tx) error { return err })
		}
		var out api.Instance
		err = s.update(ctx, func(tx store.Tx) error {
			return quietly(tx, func(tx store.Tx) (err error) {
				out, err = s.commit(tx, callerOf(ctx).operator, in, p, d, spent)
				return err
			})
		})
		if !errors.Is(err, errMoved) {
			return out, err
		}
		s.hosts.forget()
	}
	return api.Instance{}, refuse(http.StatusConflict, api.CodeConflict, "send it again", "other creates took what was chosen for this one, %d times", decideAgain)
}

// quietly runs fn, whose side effects nobody is asked about.
func quietly(tx store.Tx, fn func(store.Tx) error) error {
	n, ok := tx.(*noting)
	if !ok {
		return fn(tx)
	}
	effects := n.effects
	defer func() { n.effects = effects }()
	return fn(n)
}

// choose checks a create and chooses servers for it.
func (s *Server) choose(ctx context.Context, in api.InstanceCreate) (plan, placement.Decision, error) {
	all, err := s.hosts.all(ctx, s.store)
	if err != nil {
		return plan{}, placement.Decision{}, err
	}
	var p plan
	var near []placement.Neighbour
	var settings api.InstanceSettings
	err = s.store.View(ctx, func(tx store.Tx) (err error) {
		if p, err = s.plan(tx, in); err != nil {
			return err
		}
		if settings, err = instances.GetSettings(tx); err != nil {
			return err
		}
		if p.want.Platform, err = defaultPlatform(tx); err != nil {
			return err
		}
		near = nil
		if slices.ContainsFunc(p.want.Rules, placement.Rule.AboutInstances) {
			for r, err := range instances.OfOwner(tx, p.instance.Owner) {
				if err != nil {
					return err
				}
				near = append(near, neighbour(r))
			}
		}
		return nil
	})
	if err != nil {
		return p, placement.Decision{}, err
	}
	p.checked = s.now()
	d := placement.Decide(p.want, s.nowOf(all...), near, settings)
	for _, uuid := range d.Best[:min(tryServers, len(d.Best))] {
		p.best = append(p.best, all[slices.IndexFunc(all, func(h placement.Server) bool { return h.UUID == uuid })])
	}
	return p, d, nil
}

// steps is where the time of a decision went.
func steps(begun, checked, decided time.Time) []api.InstanceStep {
	return []api.InstanceStep{
		{Name: "validate", Start: begun.UTC(), Seconds: checked.Sub(begun).Seconds()},
		{Name: "place", Start: checked.UTC(), Seconds: decided.Sub(checked).Seconds()},
	}
}

func neighbour(r instances.Record) placement.Neighbour {
	return placement.Neighbour{Server: r.Server, UUID: r.UUID, Name: r.Name, Tags: r.Tags}
}

// defaultPlatform is the stamp that new boots get; empty: there is none.
func defaultPlatform(tx store.Tx) (string, error) {
	stamp, err := platforms.Default(tx)
	if isNotFound(err) {
		return "", nil
	}
	return stamp, err
}

// plan names all that is wrong with a create, whatever server it comes to be on.
func (s *Server) plan(tx store.Tx, in api.InstanceCreate) (plan, error) {
	var p plan
	owner, ownerOK := inventory.ParseUUID(in.Owner)
	uuid, uuidOK := inventory.ParseUUID(in.UUID)
	var faults []error
	bad := func(next, format string, args ...any) {
		faults = append(faults, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, next, format, args...))
	}
	if !ownerOK {
		bad("give the account's UUID", "owner_uuid of the instance: %.64q is not a UUID", in.Owner)
	}
	if !uuidOK {
		bad("leave it out and one is made", "uuid of the instance: %.64q is not a UUID", in.UUID)
		uuid = instances.NewUUID()
	}
	name := instances.Name(in.Name, uuid)
	faults = append(faults, instances.CheckName(tx, owner, name, uuid), instances.CheckTags(in.Tags), instances.CheckMetadata(in.Metadata), instances.CheckInternal(in.Internal), instances.CheckRestart(in.Restart))
	var err error
	if p.want.Rules, err = placement.ParseRules(in.Affinity); err != nil {
		faults = append(faults, err)
	}
	size, err := packages.ForNew(tx, in.Package, owner)
	faults = append(faults, err)
	if p.image, err = s.imageOf(tx, owner, in.Image); err != nil {
		faults = append(faults, err)
	} else if size.UUID != "" {
		faults = append(faults, suits(in, p.image, size))
	}
	if in.Server != "" {
		r, err := inventory.Find(tx, in.Server)
		if isNotFound(err) {
			err = refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid server list", "there is no server %.64q", in.Server)
		}
		faults = append(faults, err)
		p.want.Server = r.UUID
	}
	brand := brandOf(in, p.image, size)
	vm, err := machineOf(in, brand, p.image, size)
	faults = append(faults, err)
	if len(in.Networks) > instances.MaxNICs {
		bad("ask for fewer", "the instance asks for %s; at most %d are allowed", api.Plural(len(in.Networks), "NIC"), instances.MaxNICs)
	}
	for i, n := range in.Networks {
		nic := api.NetworkNIC{Owner: owner, BelongsTo: uuid, BelongsToType: api.BelongsToZone, Brand: brand, Addresses: n.Addresses,
			Primary: i == 0, Tags: instances.FirewallTags(in.Tags), NoFirewall: !in.Firewall}
		ways, err := networks.Ways(tx, nic)
		faults = append(faults, err)
		p.nics = append(p.nics, nic)
		var either []placement.Way
		for _, w := range ways {
			either = append(either, placement.Way{Tag: w.Tag, Fabric: w.Fabric, Segment: w.Segment, Network: w.Network})
		}
		p.want.NICs = append(p.want.NICs, either)
	}
	if err := api.Faults(faults...); err != nil {
		return p, err
	}
	p.want.UUID, p.want.Brand, p.want.Traits, p.want.Limits = uuid, brand, size.Traits, size.Limits
	p.want.Emulated = vm != nil && vm.Emulated
	p.instance = api.Instance{UUID: uuid, Owner: owner, Name: name, Brand: brand, Image: p.image.UUID, Package: size.UUID, Wanted: instances.WantRunning,
		Protected: in.Protected, Firewall: in.Firewall, Restart: in.Restart, Tags: in.Tags, Metadata: in.Metadata, Internal: in.Internal, Affinity: in.Affinity, Traits: size.Traits, VM: vm, Limits: size.Limits}
	if in.Stopped {
		p.instance.Wanted = instances.WantStopped
	}
	return p, nil
}

// machineOf is the virtual machine that is asked for; nil: none is.
func machineOf(in api.InstanceCreate, brand string, image api.Image, size api.Package) (*api.VM, error) {
	switch {
	case brand == api.BrandKVM && image.UUID != "" && size.UUID != "":
		return instances.NewVM(in.VM, catalog.SpecOf(image), size.QuotaMiB, len(in.Networks))
	case brand == api.BrandLX && in.VM != nil && image.UUID != "":
		return nil, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "leave vm out, or take the image of a disk", "vm is for instances of brand kvm; this one is of brand lx, as image %s (%s) is of type %s", image.Name, image.UUID, image.Type)
	}
	return nil, nil
}

// brandOf is the brand of an instance: as asked for, or its image's, or its package's.
func brandOf(in api.InstanceCreate, image api.Image, size api.Package) string {
	of := image.Requirements.Brand
	if image.Type == api.ImageZvol {
		of = api.BrandKVM
	}
	for _, b := range []string{in.Brand, of, size.Brand} {
		if b != "" {
			return b
		}
	}
	return api.BrandLX
}

// suits names all that an image asks for and a package, or a brand, has not.
func suits(in api.InstanceCreate, image api.Image, size api.Package) error {
	var faults []error
	bad := func(format string, args ...any) {
		faults = append(faults, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "take another package or image", format, args...))
	}
	what := fmt.Sprintf("image %s (%s)", image.Name, image.UUID)
	req := image.Requirements
	if req.MinMemory > 0 && size.MemoryMiB < req.MinMemory {
		bad("%s needs %d MiB of memory; package %s has %d MiB", what, req.MinMemory, size.Name, size.MemoryMiB)
	}
	if req.MaxMemory > 0 && size.MemoryMiB > req.MaxMemory {
		bad("%s takes at most %d MiB of memory; package %s has %d MiB", what, req.MaxMemory, size.Name, size.MemoryMiB)
	}
	if size.QuotaMiB < req.MinQuotaMiB {
		bad("%s needs %d MiB of disk; package %s has %d MiB", what, req.MinQuotaMiB, size.Name, size.QuotaMiB)
	}
	brand := brandOf(in, image, size)
	if (image.Type == api.ImageZvol) != (brand == api.BrandKVM) {
		kind := "the root of a zone"
		if image.Type == api.ImageZvol {
			kind = "the disk of a virtual machine"
		}
		bad("%s is %s, which brand %s does not run", what, kind, brand)
	}
	for _, x := range [][2]string{{what, req.Brand}, {"package " + size.Name, size.Brand}} {
		if x[1] != "" && x[1] != brand {
			bad("%s is for brand %s, not %s", x[0], x[1], brand)
		}
	}
	return api.Faults(faults...)
}

// commit makes an instance on the first of the best servers that still takes it.
func (s *Server) commit(tx store.Tx, by string, in api.InstanceCreate, before plan, d placement.Decision, spent []api.InstanceStep) (api.Instance, error) {
	p, err := s.plan(tx, in) // what it names may be gone
	if err != nil {
		return api.Instance{}, err
	}
	p.want.Platform = before.want.Platform
	settings, err := instances.GetSettings(tx)
	if err != nil {
		return api.Instance{}, err
	}
	for _, h := range before.best {
		takes, provided, err := s.stillTakes(tx, p, h, settings)
		if err != nil {
			return api.Instance{}, err
		}
		if !takes {
			continue
		}
		why := told(d, p, h.UUID)
		why.Time, why.Steps = s.now().UTC(), spent
		return s.make(tx, by, p, h.UUID, provided, why)
	}
	return api.Instance{}, errMoved
}

// stillTakes reads what a server has given out and what was decided of it, and says
// whether it takes an instance. What was observed of it may be a moment old.
func (s *Server) stillTakes(tx store.Tx, p plan, before placement.Server, settings api.InstanceSettings) (bool, []string, error) {
	h, err := host(tx, before.UUID, before, decided)
	if isNotFound(err) {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	h = s.nowOf(h)[0]
	var near []placement.Neighbour
	if len(p.want.Rules) > 0 {
		for r, err := range instances.OfServer(tx, h.UUID, p.instance.Owner) {
			if err != nil {
				return false, nil, err
			}
			near = append(near, neighbour(r))
		}
	}
	return len(placement.Unfit(p.want, h, near, true, settings)) == 0, h.Tags, nil
}

// make writes an instance on a server: its NICs with their addresses, and itself.
func (s *Server) make(tx store.Tx, by string, p plan, server string, provided []string, why api.Placement) (api.Instance, error) {
	n := instances.New{Instance: p.instance, Run: p.image.Run, DNSDomain: s.answers.DNSDomain, Datacenter: s.answers.Datacenter, Image: catalog.SpecOf(p.image), Placement: why, By: by}
	n.Instance.Server = server
	for _, nic := range p.nics {
		nic.Server = server
		c, err := s.createNIC(tx, nic, provided)
		made, err := s.nicChanged(tx, c, err)
		if err != nil {
			return n.Instance, err
		}
		inside, resolvers, err := networks.Inside(tx, made)
		if err != nil {
			return n.Instance, err
		}
		n.Instance.NICs = append(n.Instance.NICs, inside)
		n.Segments = append(n.Segments, networks.SegmentOf(made))
		for _, r := range resolvers {
			if !slices.Contains(n.Instance.Resolvers, r) {
				n.Instance.Resolvers = append(n.Instance.Resolvers, r)
			}
		}
	}
	r, err := instances.Create(tx, s.now(), n)
	if err != nil {
		return n.Instance, err
	}
	tellInstance(tx, r, true)
	return s.showInstance(tx, r)
}

// How many servers a placement tells of: those that fit, and those that do not.
const (
	toldBest  = placement.Explained
	toldUnfit = 50
)

// told is a decision as it is kept with an instance.
func told(d placement.Decision, p plan, chosen string) api.Placement {
	out := api.Placement{Instance: p.instance.UUID, Chosen: chosen, Asked: p.want.Server != "", Affinity: p.instance.Affinity}
	fit, unfit := 0, 0
	for _, v := range d.Servers {
		if len(v.Why) == 0 {
			fit++
		} else {
			unfit++
		}
		if v.UUID == chosen || len(v.Why) == 0 && fit <= toldBest || len(v.Why) > 0 && unfit <= toldUnfit {
			out.Servers = append(out.Servers, v)
			continue
		}
		out.More++
	}
	return out
}

// noServer is the refusal of a create that no server takes, with each one's reasons.
func noServer(d placement.Decision) error {
	p := refuse(http.StatusConflict, api.CodeNoCapacity, "free or add what is missing, or ask for less", "no server takes the instance")
	if len(d.Servers) == 0 {
		p.Next = "let one in and set it up: nereid server list"
		p.Detail = "there is no server that could take the instance"
		return p
	}
	for i, v := range d.Servers {
		if i == 100 {
			p.Errors = append(p.Errors, fmt.Sprintf("and %d more", len(d.Servers)-i))
			break
		}
		p.Errors = append(p.Errors, v.Hostname+": "+strings.Join(v.Why, "; "))
	}
	return p
}
