package fabric

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// A SmartOS compute node caches what it looked up for as long as it runs, and asks
// every 5 to 10 s for hints about what changed: its log. A hint with a MAC makes it
// drop where that MAC is; one with an IPv4 address makes it look the address up and
// tell its instances by a gratuitous ARP. There is none with an IPv6 address, as
// illumos's varpd aborts when the look-up of one succeeds (svp_vl3_inject_cb).

const (
	svpClientPrefix = "fabric/svp/client/" // <underlay>: svpClient
	svpHintPrefix   = "fabric/svp/hint/"   // <underlay>/<number>: storedHint, in order
	svpForPrefix    = "fabric/svp/for/"    // <underlay>/<what>: number of the hint
	svpIDPrefix     = "fabric/svp/id/"     // <id>: key of the hint
)

// Limits of the hints.
const (
	MaxSVPClients = 4096
	MaxSVPHints   = 4096 // of one node; the oldest give way
	SVPSilence    = 24 * time.Hour
	svpRenew      = time.Hour // how often it is written that a node still asks
)

// SVPHint says to a SmartOS node what changed. Exactly one of MAC and IP is set.
type SVPHint struct {
	ID  [16]byte
	VNI uint32
	MAC string
	IP  netip.Addr // IPv4
}

// SVPClient is a SmartOS node that asks for hints.
type SVPClient struct {
	Underlay netip.Addr
	Seen     time.Time // to within an hour
	Pending  int       // hints it has not removed
	Dropped  uint64    // hints that gave way to newer ones: its cache may be wrong
}

type svpClient struct {
	Seen    time.Time `json:"seen"`
	Next    uint64    `json:"next"`
	Pending int       `json:"pending,omitempty"`
	Dropped uint64    `json:"dropped,omitempty"`
}

type storedHint struct {
	ID  string `json:"id"`
	VNI uint32 `json:"vni"`
	MAC string `json:"mac,omitempty"`
	IP  string `json:"ip,omitempty"`
}

// what is the key of what a hint is about: a newer hint about it replaces it.
func (h storedHint) what() string { return fmt.Sprintf("%06x/%s%s", h.VNI, h.MAC, h.IP) }

func svpHintKey(client string, n uint64) string {
	return fmt.Sprintf("%s%s/%016x", svpHintPrefix, client, n)
}

// hintsOf is what a change of an address means to those who cached the old entry.
// The zero place is nowhere.
func hintsOf(vni uint32, ip netip.Addr, old, now place) []SVPHint {
	var out []SVPHint
	if old.MAC != "" && (old.MAC != now.MAC || old.Underlay != now.Underlay) {
		out = append(out, SVPHint{VNI: vni, MAC: old.MAC})
	}
	if now.MAC != "" && ip.Is4() && old.MAC != now.MAC {
		out = append(out, SVPHint{VNI: vni, IP: ip})
	}
	return out
}

// hint adds hints for every SmartOS node that is on the VNI.
func hint(tx store.Tx, vni uint32, hints []SVPHint) error {
	if len(hints) == 0 {
		return nil
	}
	for e, err := range store.Each[svpClient](tx, svpClientPrefix) {
		if err != nil {
			return err
		}
		client := e.Key[len(svpClientPrefix):]
		on, err := hosts(tx, client, vni)
		if err == nil && on {
			err = addHints(tx, client, e.Value, hints)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// HasSVPClients says whether a SmartOS node asks for hints.
func HasSVPClients(tx store.Tx) (bool, error) { return store.HasBelow(tx, svpClientPrefix) }

// HintMAC has every SmartOS node that is on a VNI look up anew where a MAC is, which the
// VNI's map does not have.
func HintMAC(tx store.Tx, vni uint32, mac string) error {
	if err := hint(tx, vni, []SVPHint{{VNI: vni, MAC: mac}}); err != nil {
		return fmt.Errorf("hint about %s of VNI %d: %w", mac, vni, err)
	}
	return nil
}

// addHints adds hints for one node and writes its record. Each gets an id of its
// own also when it replaces one: to remove the old one is not to know the new.
func addHints(tx store.Tx, client string, c svpClient, hints []SVPHint) error {
	for _, h := range hints {
		var id [16]byte
		_, _ = rand.Read(id[:]) // it never fails (crypto/rand, Go 1.24)
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
		s := storedHint{ID: hex.EncodeToString(id[:]), VNI: h.VNI, MAC: h.MAC}
		if h.IP.IsValid() {
			s.IP = h.IP.String()
		}
		forKey := svpForPrefix + client + "/" + s.what()
		old, found, err := store.Lookup[uint64](tx, forKey)
		if err == nil && found {
			err = removeHint(tx, client, &c, svpHintKey(client, old))
		}
		c.Next++
		c.Pending++
		key := svpHintKey(client, c.Next)
		if err == nil {
			err = store.Put(tx, key, s)
		}
		if err == nil {
			err = store.Put(tx, forKey, c.Next)
		}
		if err == nil {
			err = store.Put(tx, svpIDPrefix+s.ID, key)
		}
		if err != nil {
			return err
		}
	}
	for it, err := range tx.Scan(svpHintPrefix+client+"/", "") {
		if err != nil {
			return err
		}
		if c.Pending <= MaxSVPHints {
			break
		}
		c.Dropped++
		if err := removeHint(tx, client, &c, it.Key); err != nil {
			return err
		}
	}
	return store.Put(tx, svpClientPrefix+client, c)
}

// removeHint removes a hint; c is written by the caller.
func removeHint(tx store.Tx, client string, c *svpClient, key string) error {
	s, err := store.Get[storedHint](tx, key)
	if err != nil {
		return err
	}
	c.Pending--
	for _, k := range []string{key, svpForPrefix + client + "/" + s.what(), svpIDPrefix + s.ID} {
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// SVPHints reads the oldest hints of a node: at most limit. due says that SVPSeen is
// to be called for it: it is not known yet, or that is to be noted again.
func SVPHints(tx store.Tx, underlay netip.Addr, limit int, now time.Time) (hints []SVPHint, due bool, err error) {
	client := addrHex(underlay)
	c, found, err := store.Lookup[svpClient](tx, svpClientPrefix+client)
	if err != nil || !found {
		return nil, err == nil, err
	}
	for e, err := range store.Each[storedHint](tx, svpHintPrefix+client+"/") {
		if err != nil {
			return nil, false, fmt.Errorf("read SVP hints of %v: %w", underlay, err)
		}
		if len(hints) >= limit {
			break
		}
		h := SVPHint{VNI: e.Value.VNI, MAC: e.Value.MAC}
		if id, err := hex.DecodeString(e.Value.ID); err == nil {
			copy(h.ID[:], id)
		}
		if e.Value.IP != "" {
			if h.IP, err = netip.ParseAddr(e.Value.IP); err != nil {
				return nil, false, fmt.Errorf("read SVP hints of %v: %w", underlay, err)
			}
		}
		hints = append(hints, h)
	}
	return hints, now.Sub(c.Seen) >= svpRenew, nil
}

// SVPSeen notes that a node asked for its hints. One that was not known, and may
// have cached anything of the VNIs it is on, gets a hint about every MAC of them. An
// *api.Problem when there are MaxSVPClients already.
func SVPSeen(tx store.Tx, underlay netip.Addr, now time.Time) error {
	if err := svpSeen(tx, underlay, now); err != nil {
		return fmt.Errorf("note SVP client %v: %w", underlay, err)
	}
	return nil
}

func svpSeen(tx store.Tx, underlay netip.Addr, now time.Time) error {
	client := addrHex(underlay)
	c, found, err := store.Lookup[svpClient](tx, svpClientPrefix+client)
	if err != nil {
		return err
	}
	c.Seen = now.UTC()
	if found {
		return store.Put(tx, svpClientPrefix+client, c)
	}
	n := 0
	for _, err := range tx.Scan(svpClientPrefix, "") {
		if err != nil {
			return err
		}
		if n++; n >= MaxSVPClients {
			return refuse(http.StatusServiceUnavailable, api.CodeUnavailable, "", "%d SVP clients are known already", n)
		}
	}
	vnis, err := Hosts(tx, underlay)
	if err != nil {
		return err
	}
	var hints []SVPHint
	for _, vni := range vnis {
		macs := make(map[string]bool)
		for _, log := range []iter.Seq2[journal.Entry, error]{journal.Live(tx, MapSet(vni)), journal.Gone(tx, MapSet(vni))} {
			for n, err := range log {
				if err != nil {
					return err
				}
				if len(hints) == MaxSVPHints {
					break
				}
				e, err := entryOf(n)
				if err != nil {
					return err
				}
				if !macs[e.MAC] {
					macs[e.MAC] = true
					hints = append(hints, SVPHint{VNI: vni, MAC: e.MAC})
				}
			}
		}
	}
	return addHints(tx, client, c, hints)
}

// SVPRemove removes hints that nodes have acted on; unknown ids are no error.
func SVPRemove(tx store.Tx, ids ...[16]byte) error {
	for _, id := range ids {
		key, found, err := store.Lookup[string](tx, svpIDPrefix+hex.EncodeToString(id[:]))
		if err == nil && found {
			client, _, _ := strings.Cut(key[len(svpHintPrefix):], "/")
			var c svpClient
			if c, err = store.Get[svpClient](tx, svpClientPrefix+client); err == nil {
				err = removeHint(tx, client, &c, key)
			}
			if err == nil {
				err = store.Put(tx, svpClientPrefix+client, c)
			}
		}
		if err != nil {
			return fmt.Errorf("remove SVP hint: %w", err)
		}
	}
	return nil
}

// SVPExpire forgets one node that has been silent for SVPSilence, with its hints;
// more says that there may be others. To be called now and then.
func SVPExpire(tx store.Tx, now time.Time) (more bool, err error) {
	return forgetOne(tx, func(c svpClient) bool { return now.Sub(c.Seen) >= SVPSilence+svpRenew })
}

// SVPForget forgets one node, silent or not; more says that there may be others.
func SVPForget(tx store.Tx) (more bool, err error) {
	return forgetOne(tx, func(svpClient) bool { return true })
}

func forgetOne(tx store.Tx, which func(svpClient) bool) (more bool, err error) {
	for e, err := range store.Each[svpClient](tx, svpClientPrefix) {
		if err == nil && !which(e.Value) {
			continue
		}
		if err == nil {
			err = forgetClient(tx, e.Key[len(svpClientPrefix):])
		}
		if err != nil {
			return false, fmt.Errorf("forget SVP clients: %w", err)
		}
		return true, nil
	}
	return false, nil
}

func forgetClient(tx store.Tx, client string) error {
	var c svpClient
	for it, err := range tx.Scan(svpHintPrefix+client+"/", "") {
		if err != nil {
			return err
		}
		if err := removeHint(tx, client, &c, it.Key); err != nil {
			return err
		}
	}
	return tx.Delete(svpClientPrefix + client)
}

// SVPClients lists the SmartOS nodes that are known.
func SVPClients(tx store.Tx) ([]SVPClient, error) {
	var out []SVPClient
	for e, err := range store.Each[svpClient](tx, svpClientPrefix) {
		var a netip.Addr
		if err == nil {
			a, err = parseAddrHex(e.Key[len(svpClientPrefix):])
		}
		if err != nil {
			return nil, fmt.Errorf("list SVP clients: %w", err)
		}
		out = append(out, SVPClient{Underlay: a, Seen: e.Value.Seen, Pending: e.Value.Pending, Dropped: e.Value.Dropped})
	}
	return out, nil
}
