package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"nereid/api"
)

// A zone's NIC goes with the zone, when that crashes or gives it up: then the zone's unit
// makes it anew and puts it back, without the agent. For that each NIC of a zone has a
// file in the run directory, for as long as it is in its bridge as it is wanted:
//
//	nics/npMAC.json  Joined
//	nics/npMAC.lock  held by who changes the NIC, the agent or the unit
const joinedDir = "nics"

// Joined is a NIC and the bridge that it is in.
type Joined struct {
	Port   api.PortSpec `json:"port"`
	Bridge string       `json:"bridge"`
}

func joinedFile(dir, device string) string {
	return filepath.Join(dir, joinedDir, device+".json")
}

// ReadJoined reads what is kept of a NIC below a run directory; fs.ErrNotExist: nothing.
func ReadJoined(dir, mac string) (j Joined, err error) {
	data, err := os.ReadFile(joinedFile(dir, PortDevice(mac)))
	if err == nil {
		err = json.Unmarshal(data, &j)
	}
	if err != nil {
		return j, fmt.Errorf("read what is kept of NIC %s: %w", mac, err)
	}
	return j, nil
}

// joining is called before a NIC is made: one that was kept and is to be another is no
// more as it was kept.
func (n *Network) joining(p *portState, spec api.PortSpec, bridge string) error {
	if n.Dir == "" {
		return nil
	}
	if !p.kept {
		j, err := ReadJoined(n.Dir, macOf(p.name))
		if err == nil {
			p.joined, p.kept = &j, true
		}
	}
	if p.kept && (p.joined == nil || reflect.DeepEqual(*p.joined, Joined{spec, bridge})) {
		return nil
	}
	return n.keepJoined(p, nil)
}

// keepJoined keeps a zone's NIC that is in its bridge, or with nil that it is not as it
// is wanted. What is kept already costs nothing.
func (n *Network) keepJoined(p *portState, j *Joined) error {
	if n.Dir == "" || p.kept && (p.joined == j || p.joined != nil && j != nil && reflect.DeepEqual(*p.joined, *j)) {
		return nil
	}
	path := joinedFile(n.Dir, p.name)
	if j == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		p.joined, p.kept = nil, true
		return nil
	}
	data, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".next", data, 0o600); err != nil {
		return err
	}
	if err := os.Rename(path+".next", path); err != nil {
		return err
	}
	p.joined, p.kept = j, true
	return nil
}

func lockFile(dir, device string) string { return filepath.Join(dir, joinedDir, device+".lock") }

// lockNIC has nobody else change a NIC until unlock.
func lockNIC(dir, device string) (unlock func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	path := lockFile(dir, device)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := flock(f); err != nil {
			f.Close()
			return nil, err
		}
		held, err := f.Stat()
		now, nerr := os.Stat(path)
		if err == nil && nerr == nil && os.SameFile(held, now) {
			return func() { f.Close() }, nil
		}
		f.Close() // it was removed meanwhile
	}
}

// Rejoin makes a NIC what it was when it was kept below a run directory, whatever is
// there of it: for those who have no Network, as the agent is away. protect is called as
// Network.Protect is. Where the bridge is gone it does nothing, and the error says so; of a
// NIC that was not kept it is fs.ErrNotExist.
func Rejoin(ctx context.Context, k System, dir, mac string, protect func(ctx context.Context, devices []string) error) error {
	unlock, err := lockNIC(dir, PortDevice(mac))
	if err != nil {
		return fmt.Errorf("put NIC %s back: %w", mac, err)
	}
	defer unlock()
	j, err := ReadJoined(dir, mac)
	if err != nil {
		return err
	}
	return rejoin(ctx, k, j, protect)
}

func rejoin(ctx context.Context, k System, j Joined, protect func(ctx context.Context, devices []string) error) error {
	mac, err := parseMAC(j.Port.MAC)
	if err != nil {
		return err
	}
	port, device := j.Port, PortDevice(mac)
	port.MAC = mac
	failed := func(err error) error { return fmt.Errorf("put NIC %s back into %s: %w", mac, j.Bridge, err) }
	now, err := k.Read(ctx, device, j.Bridge)
	if err != nil {
		return failed(err)
	}
	bridge := now.find(j.Bridge)
	if bridge == nil || bridge.class() != classBridge && bridge.class() != classTag {
		return failed(errors.New("there is no such bridge of the agent's"))
	}
	n := &Network{System: k, Protect: protect}
	p := planPort(port, bridge.Name, now.Links[device])
	problems := p.problems
	if p.fault != nil {
		problems = append(problems, p.fault.Error())
	}
	more, _ := n.run(ctx, p.steps)
	if problems = append(problems, more...); len(problems) > 0 {
		return failed(Problems(problems))
	}
	if port.VNI == 0 {
		return nil
	}
	now, err = k.Read(ctx, device)
	if err != nil {
		return failed(err)
	}
	link := now.Links[device]
	if link == nil {
		return failed(errors.New("it is gone again"))
	}
	// As setPort does; addresses that the VNI's map has are known by it already.
	hw, err := parseMACBytes(mac)
	if err != nil {
		return failed(err)
	}
	changes := []Change{{Dev: link.Index, MAC: hw}}
	for _, ip := range localOf(port, link).addrs {
		if ip.Is4() {
			changes = append(changes, Change{Dev: bridge.Index, IP: ip, MAC: hw})
		}
	}
	if err := k.Change(ctx, changes); err != nil {
		return failed(err)
	}
	return nil
}
