package boottest

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"nereid/api"
)

// Stamp is the platform every boot gets.
const Stamp = "20261122T101500Z"

// Booter gives every MAC the next address of Network, mints boot ids that count
// up, and hands each boot's configuration out once.
type Booter struct {
	Network  netip.Prefix // the admin network, with the server's own address
	First    netip.Addr   // first address handed out
	Platform api.Manifest
	Dir      string // files by SHA-256
	Lease    time.Duration

	mu      sync.Mutex
	boots   []*boot
	address map[string]netip.Addr
	refuse  map[string]api.BootAnswer
	hold    string
	retry   int
	fail    error
	asked   []api.BootRequest
	changed chan struct{}
}

type boot struct {
	id, mac string
	arch    uint16
	addr    netip.Addr
	config  bool
	events  []api.BootEvent
}

// New makes a Booter whose platform has the given files: kernel, initrd and
// layers as contents, kept in dir.
func New(dir string, network netip.Prefix, first netip.Addr, kernel, initrd []byte, layers ...[]byte) (*Booter, error) {
	b := &Booter{Network: network, First: first, Dir: dir, Lease: 12 * time.Hour,
		address: map[string]netip.Addr{}, refuse: map[string]api.BootAnswer{}, changed: make(chan struct{})}
	put := func(name string, content []byte) (api.File, error) {
		sum := sha256.Sum256(content)
		f := api.File{Name: name, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content))}
		return f, os.WriteFile(filepath.Join(dir, f.SHA256), content, 0o600)
	}
	m := api.Manifest{Stamp: Stamp, Arch: "x86_64", Args: []string{"quiet"}}
	var err error
	if m.Kernel, err = put("vmlinuz", kernel); err != nil {
		return nil, err
	}
	if m.Initrd, err = put("initrd.img", initrd); err != nil {
		return nil, err
	}
	for i, l := range layers {
		f, err := put(fmt.Sprintf("layer%d.squashfs", i), l)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, f)
	}
	b.Platform = m
	return b, nil
}

// Answer makes Boot give this answer to a MAC.
func (b *Booter) Answer(mac string, a api.BootAnswer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse[mac] = a
}

// Hold makes Plan hold every boot, to ask again in retry seconds; an empty reason
// lets them go.
func (b *Booter) Hold(why string, retry int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hold, b.retry = why, retry
}

// Fail makes Boot fail; nil lets it work again.
func (b *Booter) Fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

// Asked returns what Boot was asked.
func (b *Booter) Asked() []api.BootRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

func id(n int) string {
	sum := sha256.Sum256([]byte{byte(n >> 8), byte(n)})
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// Boot implements bootserver.Booter.
func (b *Booter) Boot(_ context.Context, r api.BootRequest) (api.BootAnswer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, r)
	if b.fail != nil {
		return api.BootAnswer{}, b.fail
	}
	if a, ok := b.refuse[r.MAC]; ok {
		return a, nil
	}
	if r.Kind == api.KindRelease || r.Kind == api.KindDecline {
		return api.BootAnswer{Verdict: api.VerdictSilent, Rule: string(r.Kind), Reason: "noted"}, nil
	}
	a, ok := b.address[r.MAC]
	if !ok {
		a = b.First
		for range len(b.address) {
			a = a.Next()
		}
		if !r.Explain {
			b.address[r.MAC] = a
		}
	}
	ans := api.BootAnswer{Verdict: api.VerdictAnswer, Rule: "newcomer", Reason: "the MAC is new",
		Address: netip.PrefixFrom(a, b.Network.Bits()), Lease: b.Lease, Boot: true, Platform: b.Platform.Stamp,
		Domain: "coal.example.com", Hostname: strings.ReplaceAll(r.MAC, ":", "-")}
	if r.Explain {
		return ans, nil
	}
	ipxe := r.IPXE()
	cur := b.last(r.MAC)
	limit := api.StageTFTP
	if ipxe {
		limit = api.StageIPXEAck
	}
	if cur == nil || (r.Kind == api.KindDiscover && cur.past(limit)) {
		cur = &boot{id: id(len(b.boots)), mac: r.MAC, arch: r.Arch, addr: a}
		b.boots = append(b.boots, cur)
	}
	stage := map[bool]map[api.BootKind]api.BootStage{
		false: {api.KindDiscover: api.StageDiscover, api.KindRequest: api.StageAck},
		true:  {api.KindDiscover: api.StageIPXEDiscover, api.KindRequest: api.StageIPXEAck},
	}[ipxe][r.Kind]
	if stage != "" {
		b.add(cur, api.BootEvent{Time: time.Now(), Stage: stage})
	}
	ans.BootID = cur.id
	return ans, nil
}

var order = []api.BootStage{api.StageDiscover, api.StageAck, api.StageTFTP, api.StageIPXEDiscover, api.StageIPXEAck}

// past reports whether the boot has seen anything after limit.
func (b *boot) past(limit api.BootStage) bool {
	n := slices.Index(order, limit)
	for _, e := range b.events {
		if i := slices.Index(order, e.Stage); e.Stage != api.StageRefused && (i < 0 || i > n) {
			return true
		}
	}
	return false
}

func (b *Booter) last(mac string) *boot {
	for _, x := range slices.Backward(b.boots) {
		if x.mac == mac {
			return x
		}
	}
	return nil
}

func (b *Booter) add(x *boot, ev api.BootEvent) {
	x.events = append(x.events, ev)
	if ev.Stage == api.StageConfig {
		x.config = true
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *Booter) find(bootID string, from netip.Addr) (*boot, error) {
	for _, x := range b.boots {
		if x.id != bootID {
			continue
		}
		if from.IsValid() && from != x.addr {
			return nil, &api.Problem{Title: "Forbidden", Status: 403, Code: api.CodeForbidden,
				Detail: fmt.Sprintf("this boot belongs to %s, not to %s", x.addr, from), Next: "ask from the machine that boots"}
		}
		return x, nil
	}
	return nil, &api.Problem{Title: "Not found", Status: 404, Code: api.CodeNotFound,
		Detail: "no boot has this id", Next: "begin a new boot"}
}

// Plan implements bootserver.Booter.
func (b *Booter) Plan(_ context.Context, bootID string, from netip.Addr) (api.BootPlan, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x, err := b.find(bootID, from)
	if err != nil {
		return api.BootPlan{}, err
	}
	if b.hold != "" {
		return api.BootPlan{BootID: bootID, Hold: b.hold, RetryIn: b.retry}, nil
	}
	m := b.Platform
	return api.BootPlan{BootID: bootID, Manifest: &m, Address: netip.PrefixFrom(x.addr, b.Network.Bits())}, nil
}

// Config implements bootserver.Booter.
func (b *Booter) Config(_ context.Context, bootID string, from netip.Addr) (api.BootConfig, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x, err := b.find(bootID, from)
	if err != nil {
		return api.BootConfig{}, err
	}
	if x.config {
		return api.BootConfig{}, &api.Problem{Title: "Gone", Status: 410, Code: api.CodeTokenUsed,
			Detail: "this boot's configuration was handed out already", Next: "begin a new boot"}
	}
	return api.BootConfig{BootID: bootID, Token: "secret-of-" + bootID, API: "https://" + b.Network.Addr().String() + ":8443",
		BootServer: "http://" + b.Network.Addr().String(), Platform: b.Platform.Stamp, Hostname: x.mac,
		Network: api.BootNetwork{MAC: x.mac, Address: netip.PrefixFrom(x.addr, b.Network.Bits())}}, nil
}

// Record implements bootserver.Booter.
func (b *Booter) Record(_ context.Context, bootID string, from netip.Addr, ev api.BootEvent) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	x, err := b.find(bootID, from)
	if err != nil {
		return err
	}
	b.add(x, ev)
	return nil
}

// Manifest implements bootserver.Booter. The signature is 64 times "s".
func (b *Booter) Manifest(_ context.Context, stamp string) (api.SignedManifest, error) {
	if stamp != b.Platform.Stamp {
		return api.SignedManifest{}, &api.Problem{Title: "Not found", Status: 404, Code: api.CodeNotFound,
			Detail: "no platform " + stamp, Next: "nereid platform list"}
	}
	text, err := json.Marshal(b.Platform)
	return api.SignedManifest{Manifest: text, Signature: []byte(strings.Repeat("s", 64))}, err
}

// Open implements bootserver.Files.
func (b *Booter) Open(_ context.Context, sha256 string) (*os.File, error) {
	f, err := os.Open(filepath.Join(b.Dir, filepath.Base(sha256)))
	if err != nil {
		return nil, fmt.Errorf("open file %s: %w", sha256, fs.ErrNotExist)
	}
	return f, nil
}

// Events returns the events of a boot, of the newest boot of all when bootID is
// empty.
func (b *Booter) Events(bootID string) []api.BootEvent {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range slices.Backward(b.boots) {
		if bootID == "" || x.id == bootID {
			return slices.Clone(x.events)
		}
	}
	return nil
}

// Wait returns the first event of a stage, of any boot, or ctx's error.
func (b *Booter) Wait(ctx context.Context, stage api.BootStage) (api.BootEvent, error) {
	for {
		b.mu.Lock()
		changed := b.changed
		for _, x := range b.boots {
			for _, e := range x.events {
				if e.Stage == stage {
					b.mu.Unlock()
					return e, nil
				}
			}
		}
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return api.BootEvent{}, fmt.Errorf("wait for %s: %w; so far:\n%s", stage, ctx.Err(), b)
		}
	}
}

// Changed is closed at the next event.
func (b *Booter) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// String prints every boot with its events, without times.
func (b *Booter) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s strings.Builder
	for i, x := range b.boots {
		fmt.Fprintf(&s, "boot %d %s %s arch %d\n", i, x.mac, x.addr, x.arch)
		for _, e := range x.events {
			fmt.Fprintf(&s, "  %s", e.Stage)
			if e.Bytes > 0 {
				fmt.Fprintf(&s, " %d", e.Bytes)
			}
			if e.Detail != "" {
				fmt.Fprintf(&s, " (%s)", e.Detail)
			}
			s.WriteByte('\n')
		}
	}
	return s.String()
}
