package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// infrastructureState is the part of a state that a rollback restores: NICs,
// bonds, VLAN devices and bridges, but not VNIs and instances' NICs.
func infrastructureState(s *State) *State {
	c := s.clone()
	for name, l := range c.Links {
		if !restored(l) {
			delete(c.Links, name)
		}
	}
	return c
}

func restored(l *Link) bool {
	switch l.class() {
	case classPort, classBridge, classVXLAN:
		return false
	}
	return !l.Loopback && (l.device() || l.class() != "" || l.Kind == "bridge" || l.Kind == "bond" || l.Kind == "vlan")
}

// restore makes links, addresses and routes what they were.
func (n *Network) restore(ctx context.Context, before *State) error {
	if before == nil {
		return errors.New("undo change: what was there is not known")
	}
	ctx = context.WithoutCancel(ctx) // half of it would be worse than either end
	for range rounds {
		now, err := n.System.Read(ctx)
		if err != nil {
			return fmt.Errorf("undo change: %w", err)
		}
		steps, err := planRestore(before, now)
		if err != nil {
			return fmt.Errorf("undo change: %w", err)
		}
		if len(steps) == 0 {
			return nil
		}
		if problems, done := n.run(ctx, steps); done == 0 {
			return fmt.Errorf("undo change: %w", Problems(problems))
		}
	}
	return nil
}

// planRestore is pure. Links that are there in both are made what they were;
// addresses come back before they are taken from elsewhere.
func planRestore(before, state *State) ([]Step, error) {
	r := &plan{now: state.clone()}
	order := []string{"bond", "vlan", "bridge"}
	for _, kind := range order {
		for _, name := range slices.Sorted(maps.Keys(before.Links)) {
			if want := before.Links[name]; want.Kind == kind {
				r.recreate(want)
			}
		}
	}
	names := slices.Sorted(maps.Keys(before.Links))
	for _, release := range []bool{true, false} {
		for _, name := range names {
			want, l := before.Links[name], r.now.Links[name]
			if l == nil || l.Master == want.Master || release != (want.Master == "") {
				continue
			}
			if r.now.Links[want.Master] == nil && want.Master != "" {
				continue // a foreign master that is gone
			}
			if m := r.now.Links[want.Master]; m != nil && m.Kind == "bond" {
				if l.Master != "" {
					r.add(SetMaster{name, ""})
				}
				if l.Up {
					r.add(SetUp{name, false})
				}
			}
			r.add(SetMaster{name, want.Master})
		}
	}
	for _, name := range names {
		want, l := before.Links[name], r.now.Links[name]
		if l == nil {
			continue
		}
		if l.Alias != want.Alias && l.class() != "" {
			r.add(SetAlias{name, want.Alias})
		}
		if l.MTU != want.MTU {
			r.add(SetMTU{name, want.MTU})
		}
		if l.Up != want.Up {
			r.add(SetUp{name, want.Up})
		}
		if l.Closed != want.Closed && l.class() != "" {
			r.add(Close{name, want.Closed})
		}
		if want.Master != "" && l.Master == want.Master && l.Flags != want.Flags {
			r.add(SetFlags{name, want.Flags})
		}
		for _, alt := range slices.Clone(l.AltNames) {
			if l.class() == classTag && !slices.Contains(want.AltNames, alt) {
				r.add(AltName{name, alt, false})
			}
		}
		for _, alt := range want.AltNames {
			if r.now.find(alt) == nil {
				r.add(AltName{name, alt, true})
			}
		}
	}
	r.restoreAddresses(before, names)
	for _, c := range []class{classTag, classVLAN, classBond} {
		for _, name := range slices.Sorted(maps.Keys(r.now.Links)) {
			if l := r.now.Links[name]; l != nil && l.class() == c && before.Links[name] == nil {
				r.add(DeleteLink{name})
			}
		}
	}
	return r.steps, r.fault
}

func (r *plan) recreate(want *Link) {
	l := r.now.Links[want.Name]
	same := l != nil && l.Kind == want.Kind && l.Parent == want.Parent && l.VLAN == want.VLAN && l.Mode == want.Mode
	if want.class() == "" || same {
		return
	}
	if l != nil {
		r.add(DeleteLink{want.Name})
	}
	if want.Kind == "vlan" && r.now.Links[want.Parent] == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(r.now.Links)) {
		if o := r.now.Links[name]; want.Kind == "vlan" && o.class() == classVLAN && o.Parent == want.Parent && o.VLAN == want.VLAN {
			r.add(DeleteLink{name})
		}
	}
	c := want.clone()
	c.Index, c.Up, c.Master, c.Flags, c.Closed, c.Addrs, c.Routes, c.AltNames = 0, false, "", PortFlags{}, false, nil, nil, nil
	if p := r.now.Links[want.Parent]; c.Kind == "vlan" && p != nil {
		c.MTU = min(c.MTU, p.MTU)
	}
	r.add(CreateLink{*c})
}

func (r *plan) restoreAddresses(before *State, names []string) {
	for _, name := range names {
		want, l := before.Links[name], r.now.Links[name]
		if l == nil {
			continue
		}
		for _, a := range want.Addrs {
			if !slices.Contains(l.Addrs, a) {
				r.add(AddAddr{name, a})
			}
		}
		for _, rt := range want.Routes {
			if !slices.Contains(l.Routes, rt) {
				r.add(SetRoute{name, rt})
			}
		}
	}
	for _, name := range names {
		want, l := before.Links[name], r.now.Links[name]
		if l == nil {
			continue
		}
		for _, rt := range slices.Clone(l.Routes) {
			if !slices.Contains(want.Routes, rt) {
				r.add(DelRoute{name, rt})
			}
		}
		for _, a := range slices.Clone(l.Addrs) {
			if !slices.Contains(want.Addrs, a) {
				r.add(DelAddr{name, a})
			}
		}
	}
}
