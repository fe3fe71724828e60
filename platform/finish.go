package platform

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"nereid/api"
	"nereid/images"
)

// Targets of a platform, printed beside what was built.
const (
	targetLayers = 250e6 // compressed layers without QEMU, bytes
	targetRAM    = 700e6 // RAM of a running node, bytes
)

// kernelArgs are the arguments every boot gets besides the boot server's own.
// rcu_expedited shortens the boot and ends by itself once init is up; the self-tests
// of every cipher that a module registers cost seconds.
var kernelArgs = []string{"quiet", "loglevel=4", "panic=30", "systemd.show_status=0", "audit=0", "rcupdate.rcu_expedited=1", "cryptomgr.notests=1"}

// finish adds the nereid layer, writes manifest and signature, and puts the
// platform in its place as a whole.
func (b *build) finish(ctx context.Context, p parts, base made) (Result, error) {
	key, err := b.signingKey()
	if err != nil {
		return Result{}, err
	}
	in := agentFiles{}
	if in.agent, err = b.program(ctx, "nereid-agent", b.Agent); err != nil {
		return Result{}, err
	}
	if in.zone, err = b.program(ctx, "nereid-zone", b.Zone); err != nil {
		return Result{}, err
	}
	if in.unit, err = os.ReadFile(b.Unit); err != nil {
		return Result{}, fmt.Errorf("read the agent's unit: %w", err)
	}
	if in.base, err = os.ReadFile(base.file("os-release")); err != nil {
		return Result{}, err
	}
	m := api.Manifest{ // what a second build compares with, to find that nothing changed
		Arch: "x86_64", Args: kernelArgs, KernelVersion: b.list.Kernel, ZFSVersion: b.zfs, Suite: b.Suite,
		Inputs: map[string]string{"agent": in.agent.SHA256, "zone": in.zone.SHA256, "consoles": stageKey("consoles", []string{consolesUnit, metadataUnit}), "unit": stageKey("unit", []string{string(in.unit)}), "initrd": p.initrd.key, "tree": p.tree.key, "args": stageKey("args", kernelArgs)},
	}
	for _, l := range p.layers {
		m.Inputs[filepath.Base(l.dir)[:len(filepath.Base(l.dir))-25]] = l.key
	}
	list := b.packageList()
	raw, err := json.Marshal(list)
	if err != nil {
		return Result{}, err
	}
	m.Inputs["packages"] = stageKey("packages", []string{string(raw)})
	if old, ok := b.unchanged(m, key); ok {
		b.show.say("%-12s %s is this platform already: %s", "unchanged", b.Out, old.Manifest.Stamp)
		return old, nil
	}
	m.Stamp = b.stamp()
	m.AgentVersion = b.Version
	setDefault(&m.AgentVersion, m.Stamp)

	epoch, err := b.epochOf("base")
	if err != nil {
		return Result{}, err
	}
	nereid, err := b.nereid(ctx, in, m.Stamp, epoch)
	if err != nil {
		return Result{}, err
	}
	p.layers = append(p.layers, nereid)
	return b.place(p, m, list, key)
}

func (b *build) stamp() string {
	if b.Stamp != "" {
		return b.Stamp
	}
	return b.Now().UTC().Format("20060102T150405Z")
}

// unchanged reports whether Out holds a platform of the same inputs, complete and
// signed with the same key.
func (b *build) unchanged(m api.Manifest, key ed25519.PrivateKey) (Result, bool) {
	signed, err := readSigned(b.Out)
	if err != nil {
		return Result{}, false
	}
	pub := images.PublicKey(key)
	old, err := images.VerifyManifest(signed, pub)
	if err != nil || !maps.Equal(old.Inputs, m.Inputs) || (b.Stamp != "" && b.Stamp != old.Stamp) {
		return Result{}, false
	}
	for _, f := range old.Files() {
		if got, err := hashFile(filepath.Join(b.Out, f.Name)); err != nil || got != f {
			return Result{}, false
		}
	}
	return b.result(old, signed, pub, true), true
}

func readSigned(dir string) (api.SignedManifest, error) {
	var s api.SignedManifest
	var err error
	if s.Manifest, err = os.ReadFile(filepath.Join(dir, "manifest.json")); err != nil {
		return s, err
	}
	s.Signature, err = os.ReadFile(filepath.Join(dir, "manifest.sig"))
	return s, err
}

// signingKey reads the key, or makes one where there is none.
func (b *build) signingKey() (ed25519.PrivateKey, error) {
	key, err := images.ReadKey(b.Key)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(b.Key), 0o700); err != nil {
		return nil, err
	}
	if key, err = images.CreateKey(b.Key); err != nil {
		return nil, err
	}
	b.show.say("%-12s new signing key %s; keep it, and keep it secret", "key", b.Key)
	return key, nil
}

// place writes the platform beside Out and exchanges the two.
func (b *build) place(p parts, m api.Manifest, list PackageList, key ed25519.PrivateKey) (Result, error) {
	if err := os.MkdirAll(filepath.Dir(b.Out), 0o755); err != nil {
		return Result{}, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(b.Out), "."+filepath.Base(b.Out)+"-new-")
	if err != nil {
		return Result{}, fmt.Errorf("write platform: %w", err)
	}
	defer os.RemoveAll(tmp)
	put := func(from made, name string) (api.File, error) {
		f, err := from.digest(name)
		if err != nil {
			return f, err
		}
		return f, linkOrCopy(from.file(name), filepath.Join(tmp, name))
	}
	if m.Kernel, err = put(p.tree, "vmlinuz"); err != nil {
		return Result{}, err
	}
	if m.Initrd, err = put(p.initrd, "initrd.img"); err != nil {
		return Result{}, err
	}
	for _, l := range p.layers {
		for _, f := range l.Files {
			if filepath.Ext(f.Name) != ".squashfs" {
				continue
			}
			if f, err = put(l, f.Name); err != nil {
				return Result{}, err
			}
			m.Layers = append(m.Layers, f)
		}
	}
	if err := writeJSON(filepath.Join(tmp, "packages.json"), list, 0o644); err != nil {
		return Result{}, err
	}
	if m.Packages, err = hashFile(filepath.Join(tmp, "packages.json")); err != nil {
		return Result{}, err
	}
	if err := writeJSON(filepath.Join(tmp, "manifest.json"), m, 0o644); err != nil {
		return Result{}, err
	}
	raw, err := os.ReadFile(filepath.Join(tmp, "manifest.json"))
	if err != nil {
		return Result{}, err
	}
	signed, err := images.Sign(raw, key)
	if err != nil {
		return Result{}, err
	}
	if err := os.WriteFile(filepath.Join(tmp, "manifest.sig"), signed.Signature, 0o644); err != nil {
		return Result{}, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return Result{}, err
	}
	if err := exchange(tmp, b.Out); err != nil {
		return Result{}, fmt.Errorf("put platform in place: %w", err)
	}
	return b.result(m, signed, images.PublicKey(key), false), nil
}

// exchange makes dir what tmp is. The old dir goes to a name beside tmp first, so
// that at every moment one of the two is complete.
func exchange(tmp, dir string) error {
	old := tmp + ".old"
	err := os.Rename(dir, old)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return errors.Join(err, os.Rename(old, dir))
	}
	return os.RemoveAll(old)
}

// result prints and returns what there is now.
func (b *build) result(m api.Manifest, signed api.SignedManifest, pub ed25519.PublicKey, unchanged bool) Result {
	res := Result{Manifest: m, Signed: signed, PublicKey: images.FormatPublicKey(pub), Unchanged: unchanged, Stages: b.stages.results}
	b.show.say("\nplatform %s: Debian %s, Linux %s, ZFS %s, in %s", m.Stamp, m.Suite, m.KernelVersion, m.ZFSVersion, b.Out)
	var qemu int64
	for _, l := range m.Layers {
		res.LayerSum += l.Size
		if l.Name == "qemu.squashfs" {
			qemu = l.Size
		}
	}
	for _, f := range m.Files() {
		b.show.say("  %-18s %9s  sha256:%s", f.Name, mb(f.Size), f.SHA256[:16])
	}
	verdict := "met"
	if res.LayerSum-qemu > targetLayers {
		verdict = "MISSED"
	}
	b.show.say("root filesystem without QEMU %s compressed (target under %s: %s)", mb(res.LayerSum-qemu), mb(targetLayers), verdict)
	b.show.say("RAM: the layers stay in memory, %s; what a running node uses in all is measured by booting it (target under %s)", mb(res.LayerSum), mb(targetRAM))
	b.show.say("signed with %s; its public key, for the head node: %s", b.Key, res.PublicKey)
	return res
}
