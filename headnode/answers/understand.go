package answers

import (
	"net/netip"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

var (
	// labelRE is one label of a host name (RFC 1123, section 2.1).
	labelRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// ifaceRE is what Linux takes as an interface name (IFNAMSIZ is 16).
	ifaceRE = regexp.MustCompile(`^[^\s/]{1,15}$`)
)

// understand turns the raw keys into Answers and adds a fault for each that
// cannot be.
func (f *file) understand() Answers {
	f.unknown()
	a := Answers{}
	a.Datacenter = f.label("datacenter")
	a.DNSDomain = f.domain("dns_domain")
	ad := &a.Admin
	ad.Interface = f.str("admin.interface")
	if ad.Interface != "" && !ifaceRE.MatchString(ad.Interface) {
		f.at("admin.interface", "%q is no interface name; want up to 15 characters without spaces and slashes", ad.Interface)
	}
	ad.Address = f.prefix("admin.address")
	first, last, haveRange := f.addrRange("admin.range")
	ad.First, ad.Last = first, last
	ad.Gateway = f.addr("admin.gateway")
	ad.DNS = f.addrs("admin.dns")
	ad.NTP = f.addrs("admin.ntp")
	ad.Lease = f.lease("admin.lease")
	ad.Clients = f.str("admin.clients")
	if ad.Clients == "" && !f.has("admin.clients") {
		ad.Clients = ClientsPXE
	}
	if ad.Clients != ClientsPXE && ad.Clients != ClientsAll && f.isString("admin.clients") {
		f.at("admin.clients", "%q; want \"pxe\" (firmware, iPXE and the platform) or \"all\"", ad.Clients)
	}
	f.network(*ad, haveRange)
	return a
}

// network checks the addresses against each other.
func (f *file) network(ad Admin, haveRange bool) {
	if !ad.Address.IsValid() {
		return
	}
	net := ad.Address.Masked()
	own := ad.Address.Addr()
	bcast := broadcast(net)
	if own == net.Addr() || own == bcast {
		f.at("admin.address", "%s is the network or broadcast address of %s; take another", own, net)
	}
	if ad.Gateway.IsValid() {
		switch {
		case !net.Contains(ad.Gateway):
			f.at("admin.gateway", "%s is outside the network %s", ad.Gateway, net)
		case ad.Gateway == net.Addr() || ad.Gateway == bcast:
			f.at("admin.gateway", "%s is the network or broadcast address of %s", ad.Gateway, net)
		}
	}
	if !haveRange {
		return
	}
	outside := false
	for _, x := range []netip.Addr{ad.First, ad.Last} {
		if !net.Contains(x) {
			f.at("admin.range", "%s is outside the network %s", x, net)
			outside = true
		}
	}
	if ad.Last.Less(ad.First) {
		f.at("admin.range", "the first address %s comes after the last, %s", ad.First, ad.Last)
		return
	}
	if outside {
		return
	}
	within := func(x netip.Addr) bool { return x.IsValid() && !x.Less(ad.First) && !ad.Last.Less(x) }
	if within(own) {
		f.at("admin.range", "%s-%s contains the head node's own address %s", ad.First, ad.Last, own)
	}
	if within(ad.Gateway) {
		f.at("admin.range", "%s-%s contains the gateway %s", ad.First, ad.Last, ad.Gateway)
	}
	if within(net.Addr()) {
		f.at("admin.range", "%s-%s contains the network address %s", ad.First, ad.Last, net.Addr())
	}
	if within(bcast) {
		f.at("admin.range", "%s-%s contains the broadcast address %s", ad.First, ad.Last, bcast)
	}
	for _, s := range append(slices.Clone(ad.DNS), ad.NTP...) {
		if within(s) {
			f.at("admin.range", "%s-%s contains the name or time server %s", ad.First, ad.Last, s)
		}
	}
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(a)
}

// unknown reports keys and tables there are none of, and missing ones.
func (f *file) unknown() {
	want := known()
	var have []string
	for k := range f.values {
		have = append(have, k)
	}
	sort.Strings(have)
	for _, k := range have {
		if _, ok := want[k]; ok {
			continue
		}
		if k == "admin" {
			f.fault(f.values[k].line, k, "is a table; write [admin] and its keys below it")
			continue
		}
		f.fault(f.values[k].line, k, "unknown key%s", Nearest(k, want))
	}
	for t, line := range f.tables {
		if t != "admin" {
			f.fault(line, t, "unknown table; there is only [admin]")
		}
	}
	var missing []string
	for k, must := range want {
		if must && !f.has(k) {
			missing = append(missing, k)
		}
	}
	sort.Strings(missing)
	for _, k := range missing {
		f.fault(0, k, "must be given")
	}
}

// Nearest suggests the known key a mistyped one may stand for.
func Nearest(k string, want map[string]bool) string {
	last := k[strings.LastIndex(k, ".")+1:]
	best, bestDist := "", 3
	for w := range want {
		wl := w[strings.LastIndex(w, ".")+1:]
		if d := distance(last, wl); d < bestDist || (d == bestDist && best != "" && w < best) {
			best, bestDist = w, d
		}
	}
	if best == "" {
		return ""
	}
	return "; perhaps " + best
}

// distance is the Levenshtein distance of two short strings.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev = row[j+1]
			row[j+1] = min(cost, row[j]+1, prev+1)
		}
	}
	return row[len(b)]
}

func (f *file) has(key string) bool { _, ok := f.values[key]; return ok }

func (f *file) at(key, format string, args ...any) {
	f.fault(f.values[key].line, key, format, args...)
}

func (f *file) isString(key string) bool { return f.values[key].kind == unstable.String }

// str gives a string key; absent is empty, another type is a fault.
func (f *file) str(key string) string {
	v, ok := f.values[key]
	if !ok {
		return ""
	}
	if v.kind != unstable.String {
		f.at(key, "want a string in quotes")
		return ""
	}
	if known()[key] && v.text == "" {
		f.at(key, "must not be empty")
	}
	return v.text
}

func (f *file) label(key string) string {
	s := f.str(key)
	if s != "" && !labelRE.MatchString(s) {
		f.at(key, "%q; want up to 63 lower-case letters, digits and dashes, no dash at either end", s)
	}
	return s
}

func (f *file) domain(key string) string {
	s := f.str(key)
	if s == "" {
		return ""
	}
	ok := len(s) <= 190
	for _, l := range strings.Split(s, ".") {
		ok = ok && labelRE.MatchString(l)
	}
	if !ok {
		f.at(key, "%q is no domain name; want lower-case labels of letters, digits and dashes joined by dots", s)
	}
	return s
}

func (f *file) prefix(key string) netip.Prefix {
	s := f.str(key)
	if s == "" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		f.at(key, "%q; want the head node's IPv4 address with the prefix length, as 10.99.99.7/24", s)
		return netip.Prefix{}
	case !p.Addr().Is4():
		f.at(key, "%q is not IPv4; servers boot over IPv4", s)
		return netip.Prefix{}
	case p.Bits() < 8 || p.Bits() > 30:
		f.at(key, "prefix length /%d; want /8 to /30", p.Bits())
		return netip.Prefix{}
	}
	return p
}

func (f *file) parseAddr(key, s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		f.at(key, "%q is no IPv4 address", s)
		return netip.Addr{}
	}
	return a
}

func (f *file) addr(key string) netip.Addr {
	s := f.str(key)
	if s == "" {
		return netip.Addr{}
	}
	return f.parseAddr(key, s)
}

// strs gives a list of strings.
func (f *file) strs(key string) ([]string, bool) {
	v, ok := f.values[key]
	if !ok {
		return nil, false
	}
	if v.kind != unstable.Array {
		f.at(key, "want a list, as [\"10.99.99.1\"]")
		return nil, false
	}
	var out []string
	for _, e := range v.list {
		if e.kind != unstable.String {
			f.at(key, "want a list of strings in quotes")
			return nil, false
		}
		out = append(out, e.text)
	}
	return out, true
}

func (f *file) addrs(key string) []netip.Addr {
	list, _ := f.strs(key)
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, s := range list {
		a := f.parseAddr(key, s)
		if a.IsValid() && seen[a] {
			f.at(key, "%s is there twice", a)
		}
		if a.IsValid() {
			seen[a] = true
			out = append(out, a)
		}
	}
	return out
}

func (f *file) addrRange(key string) (first, last netip.Addr, ok bool) {
	list, ok := f.strs(key)
	if !ok {
		return first, last, false
	}
	if len(list) != 2 {
		f.at(key, "%d addresses; want the first and the last, as [\"10.99.99.100\", \"10.99.99.250\"]", len(list))
		return first, last, false
	}
	first, last = f.parseAddr(key, list[0]), f.parseAddr(key, list[1])
	return first, last, first.IsValid() && last.IsValid()
}

func (f *file) lease(key string) time.Duration {
	if !f.has(key) {
		return 12 * time.Hour
	}
	s := f.str(key)
	if !f.isString(key) {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		f.at(key, "%q is no duration; want one as 12h or 90m", s)
		return 0
	}
	if d < MinLease || d > MaxLease {
		f.at(key, "%s; want %s to %s", s, "2m", "720h")
	}
	return d
}
