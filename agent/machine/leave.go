package machine

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"nereid/agent/machine/seed"
	"nereid/agent/machine/vm"
	"nereid/agent/machine/zone"
	"nereid/api"
)

// leave leaves an instance's files. Those for a start answer all requests until now.
func (m *Machines) leave(ctx context.Context, uuid string, spec *api.InstanceSpec, start bool) error {
	if start {
		if err := m.prepare(ctx); err != nil {
			return fmt.Errorf("prepare the server for instances: %w", err)
		}
	}
	base, err := m.base(uuid)
	if err != nil {
		return err
	}
	s := m.look(uuid, spec)
	h := zone.Host{Base: base}
	if s.left == nil {
		s.left = &h
	}
	f := m.brand(uuid, spec).files(spec, s)
	f.host.Dataset = m.Pool + "/" + uuid
	f.host.Done = s.done()
	if start {
		f.host.Done = with(f.host.Done, ids(spec)...)
	}
	return m.write(uuid, f)
}

// machineLog is where what a machine prints is kept; empty: there is no such place yet.
func machineLog(uuid string) string {
	folder, err := filepath.EvalSymlinks(filepath.Join(zone.Consoles, zone.Logs))
	if err != nil {
		return ""
	}
	return filepath.Join(folder, zone.Log(uuid))
}

// write writes an instance's files.
func (m *Machines) write(uuid string, f files) error {
	dir := m.dir(uuid)
	if err := f.leave(dir, m.seedLeft(uuid)); err != nil {
		return err
	}
	m.note(uuid, func(i *instance) {
		i.left, i.guest, i.inside, i.start, i.seed = &f.host, &f.guest, f.inside, f.start, maps.Clone(f.seed)
	})
	return nil
}

// seedLeft is the seed that is there; nil: none, or none that is known.
func (m *Machines) seedLeft(uuid string) map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.find(uuid).seed
}

// leave leaves the files in a folder. was is the seed that is there.
func (f files) leave(dir string, was map[string]string) error {
	if f.inside != nil {
		return zone.Leave(dir, f.host, *f.inside, f.guest)
	}
	if err := zone.LeaveHost(dir, f.host, f.guest); err != nil {
		return err
	}
	if f.start == nil {
		return nil
	}
	if f.seed != nil && !maps.Equal(f.seed, was) {
		image, err := seed.Image(f.seed)
		if err == nil {
			err = vm.LeaveSeed(dir, f.start.UID, image)
		}
		if err != nil {
			return err
		}
	}
	return vm.Leave(dir, *f.start)
}

// did notes that requests were carried out.
func (m *Machines) did(uuid string, spec *api.InstanceSpec, ids ...string) error {
	s := m.look(uuid, spec)
	f := m.brand(uuid, spec).files(spec, s)
	if s.left != nil {
		f.host = *s.left
	}
	if s.inside != nil {
		f.inside = s.inside
	}
	if s.guest != nil {
		f.guest = *s.guest
	}
	if s.start != nil {
		f.start, f.seed = s.start, s.seed
	}
	f.host.Done = with(slices.Clone(f.host.Done), ids...)
	return m.write(uuid, f)
}
