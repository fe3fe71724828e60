package headnode

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/boots"
	"nereid/headnode/inventory"
	"nereid/headnode/platforms"
	"nereid/headnode/store"
	"nereid/headnode/trust"
)

// boot reads a boot for a machine that asks from an address, and refuses every
// other machine.
func (s *Server) boot(tx store.Tx, id string, from netip.Addr) (api.Boot, error) {
	b, err := s.pending.Get(tx, id)
	if err != nil {
		return b, noBoot(err)
	}
	from = from.Unmap()
	if b.Address == "" || b.Address != from.String() {
		return b, refuse(http.StatusForbidden, api.CodeForbidden, "boot from the network to get a boot of its own", "this boot belongs to the machine with another address than %s", from)
	}
	reg, err := s.registry(tx)
	if err != nil {
		return b, err
	}
	holder, err := reg.Holder(tx, from)
	if err != nil {
		return b, err
	}
	if holder != b.MAC {
		return b, refuse(http.StatusForbidden, api.CodeForbidden, "reboot the server", "the address %s is not leased to the machine of this boot any more", from)
	}
	latest, err := s.pending.ByMAC(tx, b.MAC, 2)
	if err != nil {
		return b, err
	}
	// A DISCOVER alone, which has no address yet, ends no boot.
	if slices.ContainsFunc(latest, func(x api.Boot) bool { return x.ID != b.ID && x.Address != "" && x.Started.After(b.Started) }) {
		return b, refuse(http.StatusGone, api.CodeConflict, "reboot the server", "the machine began another boot after this one")
	}
	return b, nil
}

// Plan says what a boot loads, or why it is held. It has no effect.
func (s *Server) Plan(ctx context.Context, bootID string, from netip.Addr) (api.BootPlan, error) {
	now := s.now()
	var plan api.BootPlan
	err := s.store.View(ctx, func(tx store.Tx) error {
		b, err := s.boot(tx, bootID, from)
		if err != nil {
			return err
		}
		plan = api.BootPlan{BootID: bootID, Address: netip.PrefixFrom(from.Unmap(), s.answers.Admin.Address.Bits())}
		rec, err := serverOf(tx, b.MAC)
		if err != nil {
			return err
		}
		d, h, err := s.decide(tx, b.MAC, rec, b, now)
		if err != nil {
			return err
		}
		if h.reason != "" {
			plan.Hold, plan.RetryIn = h.sentence(), h.retry
			return nil
		}
		_, m, err := platforms.Get(tx, d.Next)
		if err != nil {
			return noPlatform(err, d.Next)
		}
		plan.Manifest = &m
		plan.Args = []string{"nereid.boot=" + bootID, "BOOTIF=01-" + strings.ReplaceAll(b.MAC, ":", "-")}
		return nil
	})
	return plan, err
}

// Config makes a boot's configuration and its one-boot token. The token made
// before, if any, is void.
func (s *Server) Config(ctx context.Context, bootID string, from netip.Addr) (api.BootConfig, error) {
	now := s.now()
	var cfg api.BootConfig
	// What is refused is refused without a turn at writing.
	var asks api.Boot
	if err := s.store.View(ctx, func(tx store.Tx) (err error) { asks, err = s.unconfigured(tx, bootID, from); return err }); err != nil {
		return cfg, err
	}
	err := s.store.Update(s.lane(ctx, asks.MAC), func(tx store.Tx) error {
		b, err := s.unconfigured(tx, bootID, from)
		if err != nil {
			return err
		}
		srv, err := serverOf(tx, b.MAC)
		if err != nil {
			return err
		}
		d, h, err := s.decide(tx, b.MAC, srv, b, now)
		if err != nil {
			return err
		}
		if h.reason != "" {
			return refuse(http.StatusForbidden, api.CodeConflict, "look at it with: nereid server list", "this server is held: %s", h.sentence())
		}
		stamp := b.Platform // what its script named
		if stamp == "" {
			stamp = d.Next
		}
		rec, _, err := platforms.Get(tx, stamp)
		if err != nil {
			return noPlatform(err, stamp)
		}
		key, err := trust.PlatformKey(tx, rec.Key)
		if err != nil {
			return fmt.Errorf("read the key of platform %s: %w", stamp, err)
		}
		host, uuid, claimed := identity(srv, b)
		token, err := trust.MintBoot(tx, now, trust.Binding{BootID: b.ID, MAC: b.MAC, UUID: claimed})
		if err != nil {
			return err
		}
		ad, err := s.admin(tx)
		if err != nil {
			return err
		}
		cfg = api.BootConfig{
			BootID: b.ID, Token: token, API: s.apiURL(), CASHA256: s.ca.SHA256(), BootServer: s.cfg.BootServer,
			Platform: stamp, PlatformKey: key.Key, Hostname: host, UUID: uuid, NTP: s.ntp(), Time: now.UTC(),
			Network: api.BootNetwork{
				MAC: b.MAC, Address: netip.PrefixFrom(from.Unmap(), s.answers.Admin.Address.Bits()),
				Gateway: ad.Gateway, DNS: ad.DNS, Domain: s.answers.DNSDomain,
			},
		}
		return nil
	})
	return cfg, err
}

// unconfigured reads a boot whose configuration was not handed out yet.
func (s *Server) unconfigured(tx store.Tx, id string, from netip.Addr) (api.Boot, error) {
	b, err := s.boot(tx, id, from)
	if err == nil && slices.ContainsFunc(b.Events, func(e api.BootEvent) bool { return e.Stage == api.StageConfig }) {
		err = refuse(http.StatusGone, api.CodeTokenUsed, "reboot the server to get another", "the configuration of this boot was handed out already; it is handed out once")
	}
	return b, err
}

// identity is the name and the UUID a boot gets, and the UUID its token is bound
// to: what the firmware claimed, and nothing where it claimed nothing of use. A
// machine that is known by its MAC has its UUID; another whose firmware has none
// of use gets the one made from its MAC, as it will when it enrols.
func identity(rec *inventory.Record, b api.Boot) (host, uuid, claimed string) {
	claimed, usable := inventory.Usable(b.UUID)
	switch {
	case rec != nil:
		host, uuid = rec.Hostname, rec.UUID
	default:
		host = strings.ReplaceAll(b.MAC, ":", "-")
		if !usable && b.UUID != "" {
			uuid = inventory.MadeUUID(b.MAC, 0)
		}
	}
	return host, uuid, claimed
}

// Record adds to a boot's record. Handing out the script of a platform counts as
// one attempt with it. What has to outlive a crash, a script and a configuration
// that were handed out, is written when Record returns; anything else soon after,
// together with what other boots did.
func (s *Server) Record(ctx context.Context, bootID string, from netip.Addr, ev api.BootEvent) error {
	now := s.now()
	var (
		b     api.Boot
		noted bool
	)
	err := s.store.View(ctx, func(tx store.Tx) (err error) {
		if from.IsValid() {
			if b, err = s.boot(tx, bootID, from); err != nil {
				return err
			}
			if !s.reports.take(bootID, now) {
				s.Shed(fmt.Sprintf("reports of boots beyond %d a second", reportsPerSecond), b.MAC)
				return refuse(http.StatusTooManyRequests, api.CodeUnavailable, "report less often", "this boot reports more than %d events a second", reportsPerSecond)
			}
		} else if b, err = s.pending.Get(tx, bootID); err != nil {
			return noBoot(err)
		}
		if noted, err = s.passing(tx, b, ev, now); noted && err == nil {
			err = noBoot(s.pending.Note(tx, bootID, ev, now))
		}
		return err
	})
	if err == nil && !noted {
		b, err = s.recordNow(s.lane(ctx, b.MAC), bootID, ev, now)
	}
	if err == nil {
		s.events.Publish(api.Event{Kind: "boot", Server: b.UUID, Name: bootID})
	}
	return err
}

// noBoot is the refusal for a boot that is not known.
func noBoot(err error) error {
	if isNotFound(err) {
		return refuse(http.StatusNotFound, api.CodeNotFound, "reboot the server", "there is no such boot; its record is gone or never was")
	}
	return err
}

// passing says whether an event may be written later. The script of a boot may once
// it was handed out and names the same platform again.
func (s *Server) passing(tx store.Tx, b api.Boot, ev api.BootEvent, now time.Time) (bool, error) {
	switch ev.Stage {
	case api.StageConfig:
		return false, nil
	case api.StageScript:
		if b.Platform == "" {
			return false, nil
		}
		who, err := ownerOf(tx, b.MAC)
		if err != nil {
			return false, err
		}
		d, err := platforms.Next(tx, who, b.ID, now)
		return d.Next == b.Platform && d.Trial == b.Trial, err
	}
	return true, nil
}

// ownerOf names what a machine's platforms are kept under: its server, or its MAC.
func ownerOf(tx store.Tx, mac string) (string, error) {
	o, found, err := inventory.OwnerOf(tx, mac)
	if err != nil || !found {
		return mac, err
	}
	return o.UUID, nil
}

// recordNow adds to a boot's record on disk.
func (s *Server) recordNow(ctx context.Context, bootID string, ev api.BootEvent, now time.Time) (b api.Boot, err error) {
	err = s.store.Update(ctx, func(tx store.Tx) error {
		if b, err = s.pending.Get(tx, bootID); err != nil {
			return noBoot(err)
		}
		var edit func(*api.Boot)
		if ev.Stage == api.StageScript {
			who, err := ownerOf(tx, b.MAC)
			if err != nil {
				return err
			}
			d, err := platforms.HandOut(tx, who, bootID, now)
			if err != nil {
				return err
			}
			edit = func(b *api.Boot) { b.Platform, b.Trial = d.Next, d.Trial }
		}
		b, err = s.pending.Record(tx, bootID, ev, now, edit)
		return err
	})
	if err == nil {
		s.pending.Written(bootID)
	}
	return b, err
}

// dropBoot removes what is kept of a boot whose record goes: its token, and with the
// last boot of a stranger what was decided about its platform.
func dropBoot(tx store.Tx, b api.Boot, last bool) error {
	if !last {
		return nil
	}
	if err := trust.ForgetBoot(tx, b.ID); err != nil {
		return err
	}
	if err := platforms.Forget(tx, b.MAC); err != nil && !isNotFound(err) {
		return err
	}
	return nil
}

// upgradeBoots sorts the boots that a version before wrote.
func upgradeBoots(tx store.Tx) error {
	return boots.Upgrade(tx, func(mac string) (bool, error) {
		_, found, err := inventory.OwnerOf(tx, mac)
		return found, err
	})
}

// BootsUnderWay lists the boots that began within the last 15 minutes and have not
// reached a first sync: what a boot server that starts anew goes on with.
func (s *Server) BootsUnderWay(ctx context.Context) ([]api.Boot, error) {
	var under []api.Boot
	err := s.store.View(ctx, func(tx store.Tx) error {
		all, err := boots.Since(tx, s.now().Add(-15*time.Minute))
		if err != nil {
			return err
		}
		under = slices.DeleteFunc(all, func(b api.Boot) bool { return b.Done != nil })
		return nil
	})
	return under, err
}

// Manifest returns a platform's manifest as it was signed.
func (s *Server) Manifest(ctx context.Context, stamp string) (api.SignedManifest, error) {
	var out api.SignedManifest
	err := s.store.View(ctx, func(tx store.Tx) error {
		rec, _, err := platforms.Get(tx, stamp)
		if err != nil {
			return noPlatform(err, stamp)
		}
		out = api.SignedManifest{Manifest: rec.Manifest, Signature: rec.Signature}
		return nil
	})
	return out, err
}
