package headnode

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/addresses"
	"nereid/headnode/boots"
	"nereid/headnode/inventory"
	"nereid/headnode/platforms"
	"nereid/headnode/store"
)

// Boot decides a DHCP message. A DISCOVER is answered from a read transaction; a
// REQUEST's address is on disk before the answer is returned.
func (s *Server) Boot(ctx context.Context, r api.BootRequest) (api.BootAnswer, error) {
	mac, ok := inventory.ParseMAC(r.MAC)
	if !ok {
		return api.BootAnswer{Verdict: api.VerdictSilent, Rule: "hardware-address", Reason: fmt.Sprintf("%q is no Ethernet address", r.MAC)}, nil
	}
	r.MAC, r.UUID = mac, strings.ToLower(r.UUID)
	if r.Explain && r.Kind != api.KindInform {
		return s.bootDiscover(ctx, r)
	}
	switch r.Kind {
	case api.KindDiscover:
		return s.bootDiscover(ctx, r)
	case api.KindRequest:
		return s.bootRequest(ctx, r)
	case api.KindInform:
		return s.bootInform(ctx, r)
	case api.KindRelease:
		return s.bootGone(ctx, r, "release", "the machine gives its address back", func(tx store.Tx) error {
			return addresses.Release(tx, r.MAC, r.Requested, s.now())
		})
	case api.KindDecline:
		return s.bootDecline(ctx, r)
	}
	return api.BootAnswer{Verdict: api.VerdictSilent, Rule: "message-type", Reason: fmt.Sprintf("%q is no message to answer", r.Kind)}, nil
}

func (s *Server) bootDiscover(ctx context.Context, r api.BootRequest) (api.BootAnswer, error) {
	now := s.now()
	var (
		a api.BootAnswer
		b api.Boot
	)
	err := s.store.View(ctx, func(tx store.Tx) error {
		a, b = api.BootAnswer{}, api.Boot{}
		offer := s.offers.Offer
		begin := s.pending.Begin
		if r.Explain {
			offer, begin = s.offers.Peek, s.pending.Peek
		}
		rec, err := serverOf(tx, r.MAC)
		if err != nil {
			return err
		}
		if r.Boots() { // also one that gets no address, so that it is seen
			if b, _, err = begin(tx, r, rec != nil, now); err != nil {
				return fmt.Errorf("begin boot of %s: %w", r.MAC, err)
			}
		}
		n, err := s.admin(tx)
		if err != nil {
			return err
		}
		o, err := offer(tx, n, r.MAC, r.Requested, now)
		if errors.Is(err, addresses.ErrRangeFull) {
			a = api.BootAnswer{Verdict: api.VerdictSilent, Rule: "range-full", Reason: err.Error(), BootID: b.ID,
				Change: "see which servers hold addresses with: nereid server list; or widen the range with: " + addresses.Widen}
			return nil
		}
		if err != nil {
			return fmt.Errorf("offer address to %s: %w", r.MAC, err)
		}
		a.Address, a.Rule, a.Reason = o.Address, "newcomer", o.Reason
		switch {
		case o.Reserved:
			a.Rule = "reservation"
		case o.Fixed:
			a.Rule = "nic-address"
		case o.Known:
			a.Rule = "known-address"
		}
		return s.describe(tx, n, r, rec, b, &a, now)
	})
	if err == nil && !r.Explain {
		s.noteFull(ctx, a, now)
		if b.ID != "" {
			s.newcomerNews(b)
		}
	}
	return a, err
}

func (s *Server) bootRequest(ctx context.Context, r api.BootRequest) (api.BootAnswer, error) {
	now := s.now()
	if !r.Requested.IsValid() {
		return s.bootInform(ctx, r) // a boot service request: the address stays what it is
	}
	a, again, err := s.bootAgain(ctx, r, now)
	if err != nil || again {
		return a, err
	}
	var boot string
	err = s.store.Update(s.lane(ctx, r.MAC), func(tx store.Tx) error {
		a, boot = api.BootAnswer{}, ""
		n, err := s.admin(tx)
		if err != nil {
			return err
		}
		rec, err := serverOf(tx, r.MAC)
		if err != nil {
			return err
		}
		lease, err := addresses.Commit(tx, n, r.MAC, r.Requested, uuidOf(rec), now)
		var wrong *addresses.WrongAddressError
		switch {
		case errors.As(err, &wrong):
			a = nak("wrong-address", err, "the machine asks again and gets its own")
			return nil
		case errors.Is(err, addresses.ErrTaken):
			a = nak("taken", err, "the machine asks again and gets another")
			return nil
		case errors.Is(err, addresses.ErrNotServers):
			a = nak("not-in-range", err, "the machine asks again and gets an address of the range")
			return nil
		case errors.Is(err, addresses.ErrNotOnNetwork):
			a = nak("other-network", err, "the machine asks again and gets an address of this network")
			return nil
		case err != nil:
			return fmt.Errorf("lease %s to %s: %w", r.Requested, r.MAC, err)
		}
		b := api.Boot{}
		if r.Boots() {
			if b, _, err = s.pending.Begin(tx, r, rec != nil, now); err != nil {
				return fmt.Errorf("begin boot of %s: %w", r.MAC, err)
			}
			if _, err = s.pending.Record(tx, b.ID, ackOf(r, lease), now, func(b *api.Boot) {
				b.Address = lease.Address.String()
			}); err != nil {
				return fmt.Errorf("record boot of %s: %w", r.MAC, err)
			}
			boot = b.ID
		}
		return s.leased(tx, n, r, rec, lease, b, &a, now)
	})
	if err != nil {
		return api.BootAnswer{}, err
	}
	if a.Verdict == api.VerdictNAK {
		s.offers.Done(r.MAC) // what it was offered is not to be offered again
	}
	// Else the offer stays in memory until it expires: a DISCOVER that is answered now,
	// from a snapshot older than this lease, must not be offered the same address.
	if boot != "" {
		s.pending.Written(boot)
		s.events.Publish(api.Event{Kind: "boot", Server: a.Server, Name: boot})
	}
	return a, nil
}

// bootAgain answers a REQUEST that changes nothing of note, without a write of its
// own: the lease is on disk already, and that it was asked for again is written with
// what else happened to boots. again is false when there is something to write: then
// nothing was answered. A server's firmware is answered so, for its address is
// reserved; the boot that iPXE is told of is written before its answer.
func (s *Server) bootAgain(ctx context.Context, r api.BootRequest, now time.Time) (a api.BootAnswer, again bool, err error) {
	b := api.Boot{}
	err = s.store.View(ctx, func(tx store.Tx) error {
		a, again, b = api.BootAnswer{}, false, api.Boot{}
		n, err := s.admin(tx)
		if err != nil {
			return err
		}
		rec, err := serverOf(tx, r.MAC)
		if err != nil {
			return err
		}
		lease, current, err := addresses.Current(tx, n, r.MAC, r.Requested, uuidOf(rec), now)
		if err != nil || !current {
			return err
		}
		if r.Boots() {
			if b, _, err = s.pending.Begin(tx, r, rec != nil, now); err != nil {
				return fmt.Errorf("begin boot of %s: %w", r.MAC, err)
			}
			later, err := s.pending.Later(tx, b.ID, lease.Address.String(), ackOf(r, lease), now)
			if err != nil || !later {
				return err
			}
		}
		again = true
		return s.leased(tx, n, r, rec, lease, b, &a, now)
	})
	switch {
	case err != nil || !again || b.ID == "":
	case a.Server == "":
		s.newcomerNews(b)
	default:
		s.events.Publish(api.Event{Kind: "boot", Server: a.Server, Name: b.ID})
	}
	return a, again, err
}

// ackOf is the event of a REQUEST that is granted.
func ackOf(r api.BootRequest, lease addresses.Lease) api.BootEvent {
	stage := api.StageAck
	if r.IPXE() {
		stage = api.StageIPXEAck
	}
	return api.BootEvent{Stage: stage, Detail: lease.Address.String()}
}

// leased grants a REQUEST. What is told of the lease ends with what is on disk of it.
func (s *Server) leased(tx store.Tx, n addresses.Network, r api.BootRequest, rec *inventory.Record, lease addresses.Lease, b api.Boot, a *api.BootAnswer, now time.Time) error {
	a.Address = netip.PrefixFrom(lease.Address, n.Own.Bits())
	a.Rule, a.Reason = "lease", fmt.Sprintf("%s is leased to %s", lease.Address, r.MAC)
	if rec != nil {
		a.Rule, a.Reason = "reservation", fmt.Sprintf("%s is reserved for server %s", lease.Address, rec.Hostname)
	}
	if lease.State == addresses.Fixed {
		a.Rule, a.Reason = "nic-address", fmt.Sprintf("%s is the address of NIC %s", lease.Address, r.MAC)
	}
	if lease.State == addresses.Leased {
		n.Lease = lease.Expires.Sub(now).Truncate(time.Second)
	}
	return s.describe(tx, n, r, rec, b, a, now)
}

// serverOf finds the server of a DHCP message; nil: none.
func serverOf(tx store.Tx, mac string) (*inventory.Record, error) {
	rec, found, err := inventory.ByFirmware(tx, mac)
	if err != nil {
		return nil, fmt.Errorf("find server of %s: %w", mac, err)
	}
	if !found {
		return nil, nil
	}
	return &rec, nil
}

func uuidOf(rec *inventory.Record) string {
	if rec == nil {
		return ""
	}
	return rec.UUID
}

func nak(rule string, err error, change string) api.BootAnswer {
	return api.BootAnswer{Verdict: api.VerdictNAK, Rule: rule, Reason: err.Error(), Change: change}
}

// bootInform answers who has an address already and asks for the rest.
func (s *Server) bootInform(ctx context.Context, r api.BootRequest) (api.BootAnswer, error) {
	now := s.now()
	var a api.BootAnswer
	err := s.store.View(ctx, func(tx store.Tx) error {
		a = api.BootAnswer{Rule: "inform", Reason: "the machine has an address and asks for the rest"}
		n, err := s.admin(tx)
		if err != nil {
			return err
		}
		if l, err := addresses.Of(tx, n, r.MAC); err == nil {
			a.Address = netip.PrefixFrom(l.Address, n.Own.Bits())
		} else if !isNotFound(err) {
			return err
		}
		rec, err := serverOf(tx, r.MAC)
		if err != nil {
			return err
		}
		b := api.Boot{}
		if r.Boots() {
			if b, _, err = s.pending.Peek(tx, r, rec != nil, now); err != nil {
				return err
			}
		}
		return s.describe(tx, n, r, rec, b, &a, now)
	})
	return a, err
}

func (s *Server) bootGone(ctx context.Context, r api.BootRequest, rule, reason string, fn func(store.Tx) error) (api.BootAnswer, error) {
	a := api.BootAnswer{Verdict: api.VerdictSilent, Rule: rule, Reason: reason}
	err := s.store.Update(s.lane(ctx, r.MAC), fn)
	s.offers.Done(r.MAC)
	if errors.Is(err, addresses.ErrNotHolder) || isNotFound(err) || errors.Is(err, addresses.ErrNotOnNetwork) {
		a.Reason = "the machine does not hold that address, so nothing changes"
		return a, nil
	}
	return a, err
}

// bootDecline keeps an address back that a machine found in use, within the bounds
// of addresses.Decline, and says which machine it was.
func (s *Server) bootDecline(ctx context.Context, r api.BootRequest) (api.BootAnswer, error) {
	now := s.now()
	var until time.Time
	declined := false
	a, err := s.bootGone(ctx, r, "decline", "the machine found its address in use by another", func(tx store.Tx) (err error) {
		declined = false
		n, err := s.admin(tx)
		if err != nil {
			return err
		}
		until, err = addresses.Decline(tx, n, r.MAC, r.Requested, now)
		declined = err == nil
		return err
	})
	switch {
	case !declined || err != nil:
	case until.IsZero():
		a.Reason += "; as many are kept back as may be, so the address only goes to the end of the free ones"
		s.Shed("declined addresses that are not kept back, for there are too many already", r.MAC)
	default:
		a.Reason += "; nobody gets it before " + until.UTC().Format(time.RFC3339)
		s.log.Warn("address declined: another machine answers there", "mac", r.MAC, "address", r.Requested.String(), "until", until)
	}
	return a, err
}

// describe fills in what every answer carries. What the machine would boot is said
// where somebody asked for an explanation: DHCP answers tell nothing of it.
func (s *Server) describe(tx store.Tx, n addresses.Network, r api.BootRequest, rec *inventory.Record, b api.Boot, a *api.BootAnswer, now time.Time) error {
	a.Verdict = api.VerdictAnswer
	a.Gateway, a.DNS, a.NTP, a.Domain, a.Lease = n.Gateway, n.DNS, s.answers.Admin.NTP, s.answers.DNSDomain, n.Lease
	a.BootID = b.ID
	if rec != nil {
		a.Server, a.Hostname = rec.UUID, rec.Hostname
	}
	a.Boot = r.Boots()
	switch {
	case !a.Boot:
		a.Change = "only firmware and iPXE are given something to boot"
		return nil
	case !r.Explain:
		return nil
	}
	d, hold, err := s.decide(tx, r.MAC, rec, b, now)
	if err != nil {
		return err
	}
	switch {
	case hold.reason != "":
		a.Reason += "; held: " + hold.reason
		a.Change = hold.next
		if a.Change == "" {
			a.Change = "what the reason says"
		}
	default:
		a.Platform = d.Next
		a.Reason += "; " + d.Reason
		a.Change = "assign another platform with: nereid platform assign"
		if rec == nil {
			a.Change = "approve it once it has enrolled; it boots the default platform until then"
		}
	}
	return nil
}

// hold is why a machine is not booted now.
type hold struct {
	reason, next string
	retry        int // seconds
}

// sentence is the reason, and what to do where the reason does not say it.
func (h hold) sentence() string {
	if h.next == "" {
		return h.reason
	}
	return h.reason + ". What to do: " + h.next
}

// holdRetry is how often a held machine asks again, in seconds.
const holdRetry = 30

// decide says what a machine boots, or why it is held. Unknown and pending
// machines do boot: they have to, to be approved. rec is the server's; nil: none is.
func (s *Server) decide(tx store.Tx, mac string, rec *inventory.Record, b api.Boot, now time.Time) (platforms.Decision, hold, error) {
	var (
		bs  []api.Boot
		err error
	)
	who := mac
	if rec != nil {
		rivals, err := inventory.Claimants(tx, rec.UUID)
		if err != nil {
			return platforms.Decision{}, hold{}, err
		}
		if h := heldBy(*rec, inventory.Contested(*rec, rivals, s.syncing(*rec))); h.reason != "" {
			return platforms.Decision{}, h, nil
		}
		who = rec.UUID
		bs, err = s.bootsOf(tx, *rec, boots.MaxPerMAC)
		if err != nil {
			return platforms.Decision{}, hold{}, err
		}
	} else {
		bs, err = s.pending.ByMAC(tx, mac, boots.MaxPerMAC)
	}
	if err != nil {
		return platforms.Decision{}, hold{}, err
	}
	earlier := bs[:0:0]
	for _, x := range bs {
		if x.ID != b.ID {
			earlier = append(earlier, x)
		}
	}
	if b.MAC == "" {
		b.MAC, b.Started = mac, now
	}
	if l := boots.Loop(b, earlier, now); l.Held {
		return platforms.Decision{}, hold{reason: l.Reason, next: "look at nereid server boot-log; the server is tried again by itself", retry: l.RetryIn}, nil
	}
	d, err := platforms.Next(tx, who, b.ID, now)
	if err != nil {
		return d, hold{}, err
	}
	if d.Next == "" {
		return d, hold{reason: d.Reason, retry: holdRetry}, nil
	}
	return d, hold{}, nil
}

// heldBy says which decision of an operator stands between a machine and its boot.
func heldBy(rec inventory.Record, contested bool) hold {
	switch {
	case rec.Claims != "" && rec.Rejected:
		return hold{reason: "an operator decided that the UUID " + rec.Claims + " belongs to another machine than this one",
			next: "give this machine another UUID in its firmware, or let it in as a server of its own: nereid server approve " + rec.Hostname, retry: holdRetry}
	case rec.Rejected:
		return hold{reason: "an operator rejected this server", next: "nereid server approve " + rec.UUID, retry: holdRetry}
	case rec.Undecided():
		return hold{reason: "this machine says it is the server " + rec.Claims + ", and booted from another MAC, with another key",
			next: "nereid server approve " + rec.Hostname + ", or: nereid server accept-key " + rec.Claims + " --mac MAC", retry: holdRetry}
	case contested:
		return hold{reason: "two machines claim the UUID " + rec.UUID + ", this one among them",
			next: "nereid server approve " + rec.UUID + " --mac MAC", retry: holdRetry}
	}
	return hold{}
}

// noteFull keeps the alert about a full range, and ends it when a newcomer got
// an address.
func (s *Server) noteFull(_ context.Context, a api.BootAnswer, now time.Time) {
	f := &s.rangeFull
	f.Lock()
	defer f.Unlock()
	switch {
	case a.Rule == "range-full" && f.since.IsZero():
		f.since, f.text = now, a.Reason
		s.log.Warn("address range is full; newcomers are not answered", "why", a.Reason)
	case a.Rule == "range-full":
		f.text = a.Reason
	case a.Rule == "newcomer":
		f.since = time.Time{}
	}
}

func (s *Server) fullAlert() string {
	f := &s.rangeFull
	f.Lock()
	defer f.Unlock()
	if f.since.IsZero() {
		return ""
	}
	return fmt.Sprintf("Machines without an address are not answered since %s: %s.", f.since.UTC().Format(time.RFC3339), f.text)
}
