package firewall

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// system is nf_tables of the network namespace of the calling thread.
type system struct{}

func (t table) family() byte {
	return [...]byte{unix.NFPROTO_BRIDGE, unix.NFPROTO_INET, unix.NFPROTO_NETDEV}[t]
}

// elementBytes is less than what a netlink attribute can carry, 65535.
const elementBytes = 60000

// commit implements kernel. An interface that goes while it is under way is one that
// is not there: who makes it again calls Protect.
func (system) commit(ctx context.Context, t *transaction) error {
	there, err := interfacesOf(t)
	if err != nil {
		return err
	}
	for {
		err := send(ctx, t.encode(there))
		var r *refusal
		if !errors.As(err, &r) || r.device == "" || !errors.Is(err, unix.ENOENT) {
			return err
		}
		delete(there, r.device)
	}
}

// whole is commit for what makes no sense without all of its interfaces.
func (system) whole(ctx context.Context, t *transaction) error {
	there := make(map[string]bool)
	for _, c := range t.addChains {
		there[c.device] = true
	}
	return send(ctx, t.encode(there))
}

func send(ctx context.Context, ms []message) error {
	s, err := openSocket()
	if err != nil {
		return err
	}
	defer s.close()
	return s.batch(ctx, ms)
}

// interfacesOf are those of a transaction's chains that are there.
func interfacesOf(t *transaction) (map[string]bool, error) {
	there := make(map[string]bool)
	if !slices.ContainsFunc(t.addChains, func(c chain) bool { return c.hook == ingress }) {
		return there, nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("look for interfaces: %w", err)
	}
	defer unix.Close(fd)
	for _, c := range t.addChains {
		if c.hook != ingress {
			continue
		}
		r, err := unix.NewIfreq(c.device)
		if err == nil {
			err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r)
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("look for interface %s: %w", c.device, err)
		}
		if err == nil {
			there[c.device] = true
		}
	}
	return there, nil
}

// encode orders the messages so that each finds what it refers to. Chains at ingress
// are made for interfaces that are there.
func (t *transaction) encode(there map[string]bool) []message {
	addChains := slices.DeleteFunc(slices.Clone(t.addChains), func(c chain) bool { return c.hook == ingress && !there[c.device] })
	var ms []message
	add := func(t table, kind, flags uint16, what string, a attributes) {
		ms = append(ms, message{kind: kind, flags: flags, body: append(nfgenmsg(t.family(), 0), a...), what: what})
	}
	if t.replace {
		for _, b := range tables() {
			name := attributes(nil).text(unix.NFTA_TABLE_NAME, tableName)
			add(b, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, fmt.Sprintf("find table %s", b), name)
			add(b, unix.NFT_MSG_DELTABLE, 0, fmt.Sprintf("delete table %s", b), name)
		}
	}
	for _, b := range t.addTables {
		add(b, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, fmt.Sprintf("create table %s", b), attributes(nil).text(unix.NFTA_TABLE_NAME, tableName))
	}
	for _, c := range t.addCounters {
		a := attributes(nil).text(unix.NFTA_OBJ_TABLE, tableName).text(unix.NFTA_OBJ_NAME, c.name).u32(unix.NFTA_OBJ_TYPE, objectCounter).
			nest(unix.NFTA_OBJ_DATA, func(a attributes) attributes {
				return a.u64(unix.NFTA_COUNTER_BYTES, c.bytes).u64(unix.NFTA_COUNTER_PACKETS, c.packets)
			})
		add(c.table, unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, "create counter "+c.name, a)
	}
	// That of an interface that is gone went with it (nft_netdev_event in
	// nft_chain_filter.c). Where there is no table, this fails, and not what follows it.
	drop := func(c chain) {
		add(c.table, destroyChain, 0, "delete chain "+c.name, attributes(nil).text(unix.NFTA_CHAIN_TABLE, tableName).text(unix.NFTA_CHAIN_NAME, c.name))
	}
	for _, c := range addChains {
		if c.hook == ingress && !t.replace {
			drop(c)
		}
		add(c.table, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "create chain "+c.name, c.encode())
		ms[len(ms)-1].device = c.device
	}
	for i, s := range t.addSets {
		add(s.table, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "create set "+s.name, s.encode(uint32(i+1)))
	}
	for _, c := range addChains {
		for i, r := range c.rules {
			add(c.table, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, fmt.Sprintf("create rule %d of chain %s", i+1, c.name), r.encode(c.name))
		}
	}
	elements := func(kind, flags uint16, what string, list []setElements) {
		for _, e := range list {
			for _, body := range e.encode() {
				add(e.set.table, kind, flags, what+e.set.name, body)
			}
		}
	}
	elements(unix.NFT_MSG_DELSETELEM, 0, "delete elements of set ", t.delElements)
	elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "add elements to set ", t.addElements)
	// The rules first: they may refer to each other's chains.
	for _, c := range t.delChains {
		if c.hook == ingress {
			drop(c)
			continue
		}
		add(c.table, unix.NFT_MSG_DELRULE, 0, "empty chain "+c.name, attributes(nil).text(unix.NFTA_RULE_TABLE, tableName).text(unix.NFTA_RULE_CHAIN, c.name))
	}
	for _, c := range t.delChains {
		if c.hook == ingress {
			continue
		}
		add(c.table, unix.NFT_MSG_DELCHAIN, 0, "delete chain "+c.name, attributes(nil).text(unix.NFTA_CHAIN_TABLE, tableName).text(unix.NFTA_CHAIN_NAME, c.name))
	}
	return ms
}

func (c chain) encode() attributes {
	a := attributes(nil).text(unix.NFTA_CHAIN_TABLE, tableName).text(unix.NFTA_CHAIN_NAME, c.name)
	if c.hook == noHook {
		return a
	}
	number := map[hook]uint32{prerouting: unix.NF_INET_PRE_ROUTING, input: unix.NF_INET_LOCAL_IN, forward: unix.NF_INET_FORWARD, output: unix.NF_INET_LOCAL_OUT, ingress: netdevIngress}[c.hook] // the bridge's are the same
	return a.nest(unix.NFTA_CHAIN_HOOK, func(a attributes) attributes {
		a = a.u32(unix.NFTA_HOOK_HOOKNUM, number).u32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
		if c.hook == ingress {
			a = a.text(unix.NFTA_HOOK_DEV, c.device)
		}
		return a
	}).u32(unix.NFTA_CHAIN_POLICY, netfilterAccept).text(unix.NFTA_CHAIN_TYPE, "filter")
}

// encode makes bodies of messages. Ranges go in order, their two ends together.
func (e setElements) encode() []attributes {
	var bodies []attributes
	var list attributes
	end := func() {
		if len(list) > 0 {
			bodies = append(bodies, attributes(nil).text(unix.NFTA_SET_ELEM_LIST_TABLE, tableName).text(unix.NFTA_SET_ELEM_LIST_SET, e.set.name).
				nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(a attributes) attributes { return append(a, list...) }))
			list = list[:0]
		}
	}
	one := func(k string) {
		for _, x := range e.set.expand(k, e.elements[k]) {
			list = e.set.encodeElement(list, x)
		}
		if len(list) > elementBytes {
			end()
		}
	}
	if e.set.interval {
		for _, k := range sortedKeys(e.elements) {
			one(k)
		}
	} else {
		for k := range e.elements {
			one(k)
		}
	}
	end()
	return bodies
}

// generation implements kernel.
func (system) generation(ctx context.Context) (id uint32, err error) {
	s, err := openSocket()
	if err != nil {
		return 0, err
	}
	defer s.close()
	err = s.dump(ctx, message{kind: unix.NFT_MSG_GETGEN, flags: 0, body: nfgenmsg(unix.AF_UNSPEC, 0), what: "get generation"}, func(_ byte, attrs []byte) error {
		for _, a := range parseAttributes(attrs) {
			if a.kind == unix.NFTA_GEN_ID && len(a.data) == 4 {
				id = binary.BigEndian.Uint32(a.data)
			}
		}
		return nil
	})
	return id, err
}

// read implements kernel.
func (system) read(ctx context.Context, only []chain, sets []set) (*contents, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	defer s.close()
	for try := 1; ; try++ {
		c, err := s.contents(ctx, only, sets)
		if err == nil || try == 5 || !errors.Is(err, unix.EINTR) {
			return c, err
		}
	}
}

func (s *socket) contents(ctx context.Context, only []chain, sets []set) (*contents, error) {
	c := &contents{elements: make(map[string]elements, len(sets)), program: make(program)}
	hashes := make(map[chainKey]hash.Hash)
	if only == nil {
		for _, t := range tables() {
			if err := s.hashChains(ctx, t, "", hashes); err != nil {
				return nil, err
			}
		}
	}
	for _, o := range only {
		if err := s.hashChains(ctx, o.table, o.name, hashes); err != nil {
			return nil, err
		}
	}
	for k, h := range hashes {
		c.program[k] = [32]byte(h.Sum(nil))
	}
	for _, set := range sets {
		var list []kernelElement
		body := append(nfgenmsg(set.table.family(), 0), attributes(nil).text(unix.NFTA_SET_ELEM_LIST_TABLE, tableName).text(unix.NFTA_SET_ELEM_LIST_SET, set.name)...)
		err := s.dump(ctx, message{kind: unix.NFT_MSG_GETSETELEM, flags: unix.NLM_F_DUMP, body: body, what: "list elements of set " + set.name}, func(_ byte, attrs []byte) error {
			for _, a := range parseAttributes(attrs) {
				if a.kind == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
					for _, e := range parseAttributes(a.data) {
						list = append(list, set.decodeElement(e.data))
					}
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		c.elements[set.name] = set.collect(list)
	}
	return c, nil
}

// hashChains reads one chain of a table with its rules, or all with name "". It leaves
// out what changes by itself: how often a chain is referred to.
func (s *socket) hashChains(ctx context.Context, t table, name string, hashes map[chainKey]hash.Hash) error {
	flags, which := uint16(unix.NLM_F_DUMP), fmt.Sprintf("list chains of family %s", t)
	chains, rules := attributes(nil), attributes(nil).text(unix.NFTA_RULE_TABLE, tableName)
	if name != "" {
		flags, which = 0, "read chain "+name
		chains = chains.text(unix.NFTA_CHAIN_TABLE, tableName).text(unix.NFTA_CHAIN_NAME, name)
		rules = rules.text(unix.NFTA_RULE_CHAIN, name)
	}
	err := s.dump(ctx, message{kind: unix.NFT_MSG_GETCHAIN, flags: flags, body: append(nfgenmsg(t.family(), 0), chains...), what: which}, func(_ byte, attrs []byte) error {
		list := parseAttributes(attrs)
		k := chainKey{table: t}
		ours := false
		for _, a := range list {
			switch a.kind {
			case unix.NFTA_CHAIN_TABLE:
				ours = a.text() == tableName
			case unix.NFTA_CHAIN_NAME:
				k.name = a.text()
			}
		}
		if !ours {
			return nil
		}
		h := sha256.New()
		hashes[k] = h
		for _, a := range list {
			switch a.kind {
			case unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE:
				h.Write(binary.NativeEndian.AppendUint16(nil, a.kind))
				h.Write(a.data)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.dump(ctx, message{kind: unix.NFT_MSG_GETRULE, flags: unix.NLM_F_DUMP, body: append(nfgenmsg(t.family(), 0), rules...), what: fmt.Sprintf("list rules of table %s", t)}, func(_ byte, attrs []byte) error {
		k := chainKey{table: t}
		for _, a := range parseAttributes(attrs) {
			if a.kind == unix.NFTA_RULE_CHAIN {
				k.name = a.text()
			}
		}
		h := hashes[k]
		if h == nil { // it was made since
			return unix.EINTR
		}
		h.Write(attrs)
		return nil
	})
}

// decodeElement reads what encodeElement wrote.
func (s set) decodeElement(b []byte) (e kernelElement) {
	for _, a := range parseAttributes(b) {
		switch a.kind {
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = len(a.data) == 4 && binary.BigEndian.Uint32(a.data)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_KEY:
			for _, v := range parseAttributes(a.data) {
				e.key = string(v.data)
			}
		case unix.NFTA_SET_ELEM_DATA:
			for _, v := range parseAttributes(a.data) {
				if e.data = string(v.data); s.data == outcome {
					e.data = decodeVerdict(v.data).String()
				}
			}
		}
	}
	return e
}

func decodeVerdict(b []byte) (v verdict) {
	for _, a := range parseAttributes(b) {
		switch a.kind {
		case unix.NFTA_VERDICT_CODE:
			if len(a.data) == 4 {
				v.kind = map[int32]verdictKind{netfilterAccept: accept, netfilterDrop: drop, unix.NFT_JUMP: jump, unix.NFT_GOTO: gotoChain, unix.NFT_RETURN: returns}[int32(binary.BigEndian.Uint32(a.data))]
			}
		case unix.NFTA_VERDICT_CHAIN:
			v.chain = a.text()
		}
	}
	return v
}

// collect is the inverse of expand. A range without an end goes to the last key.
func (s set) collect(list []kernelElement) elements {
	es := make(elements, len(list))
	if !s.interval {
		for _, e := range list {
			es[e.key] = element{data: e.data}
		}
		return es
	}
	slices.SortFunc(list, func(a, b kernelElement) int {
		if c := strings.Compare(a.key, b.key); c != 0 {
			return c
		}
		if a.end == b.end {
			return 0
		}
		return map[bool]int{true: -1, false: 1}[a.end]
	})
	for i, e := range list {
		if e.end {
			continue
		}
		last := strings.Repeat("\xff", len(e.key))
		if i+1 < len(list) {
			last = predecessor(list[i+1].key)
		}
		es[e.key] = element{last, e.data}
	}
	return es
}

// counted implements kernel.
func (system) counted(ctx context.Context) (map[string]counted, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	defer s.close()
	all := make(map[string]counted)
	for _, t := range tables() {
		body := append(nfgenmsg(t.family(), 0), attributes(nil).text(unix.NFTA_OBJ_TABLE, tableName).u32(unix.NFTA_OBJ_TYPE, objectCounter)...)
		err := s.dump(ctx, message{kind: unix.NFT_MSG_GETOBJ, flags: unix.NLM_F_DUMP, body: body, what: fmt.Sprintf("list counters of table %s", t)}, func(_ byte, attrs []byte) error {
			var name string
			var c counted
			for _, a := range parseAttributes(attrs) {
				switch a.kind {
				case unix.NFTA_OBJ_NAME:
					name = a.text()
				case unix.NFTA_OBJ_DATA:
					for _, v := range parseAttributes(a.data) {
						if len(v.data) != 8 {
							continue
						}
						switch n := binary.BigEndian.Uint64(v.data); v.kind {
						case unix.NFTA_COUNTER_PACKETS:
							c.packets = n
						case unix.NFTA_COUNTER_BYTES:
							c.bytes = n
						}
					}
				}
			}
			all[name] = c
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}
