package router

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// loadRules replaces our table in a namespace, in one transaction. Then it notes
// in the alias of lo which rules these are, and the generation of the namespace's
// rulesets, by which a later change by hand is seen.
func (k *kernel) loadRules(ctx context.Context, at, sum, text string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var generation uint32
	err := inside(k.path(at), func() (err error) {
		cmd := exec.CommandContext(ctx, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf("table inet %s\ndelete table inet %s\n%s", table, table, text))
		cmd.WaitDelay = time.Second
		var problem bytes.Buffer
		cmd.Stderr = &problem
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("nft: %s (%w)", strings.Join(strings.Fields(problem.String()), " "), err)
		}
		generation, err = rulesGeneration()
		return err
	})
	if err != nil {
		return err
	}
	h, err := k.at(at)
	if err != nil {
		return err
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	note, _, _ := strings.Cut(lo.Attrs().Alias, rulesMark)
	return h.LinkSetAlias(lo, note+rulesMark+sum+" "+strconv.FormatUint(uint64(generation), 10))
}

// rulesMark is between what a namespace is and which rules it has.
const rulesMark = " rules "

// currentRules reads the digest from the alias of lo. It is empty when the
// rulesets changed since.
func currentRules(alias string, generation uint32) string {
	_, rules, _ := strings.Cut(alias, rulesMark)
	sum, g, ok := strings.Cut(rules, " ")
	if !ok || g != strconv.FormatUint(uint64(generation), 10) {
		return ""
	}
	return sum
}

// rulesGeneration asks for the number of nftables transactions in this thread's
// namespace (NFT_MSG_GETGEN of linux/netfilter/nf_tables.h).
func rulesGeneration() (uint32, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddRawData([]byte{unix.AF_UNSPEC, 0, 0, 0}) // struct nfgenmsg
	answers, err := req.Execute(unix.NETLINK_NETFILTER, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN)
	if err != nil {
		return 0, fmt.Errorf("ask for the generation of nftables: %w", err)
	}
	for _, a := range answers {
		if len(a) < 4 {
			continue
		}
		attrs, err := nl.ParseRouteAttr(a[4:])
		if err != nil {
			return 0, fmt.Errorf("ask for the generation of nftables: %w", err)
		}
		for _, attr := range attrs {
			if attr.Attr.Type&nl.NLA_TYPE_MASK == unix.NFTA_GEN_ID && len(attr.Value) == 4 {
				return binary.BigEndian.Uint32(attr.Value), nil
			}
		}
	}
	return 0, fmt.Errorf("ask for the generation of nftables: no answer")
}

// Counters sums up the named counters of all our namespaces.
func (k *kernel) Counters(ctx context.Context) (map[string]uint64, error) {
	spaces, err := k.spaces()
	if err != nil {
		return nil, err
	}
	sum := map[string]uint64{}
	for _, at := range spaces {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := inside(k.path(at), func() error { return addCounters(sum) })
		if err != nil && isSpace(k.path(at)) { // else it was removed meanwhile
			return nil, fmt.Errorf("read counters of %s: %w", at, err)
		}
	}
	return sum, nil
}

// addCounters adds the counters of our table in this thread's namespace: one dump
// (NFT_MSG_GETOBJ of linux/netfilter/nf_tables.h).
func addCounters(sum map[string]uint64) error {
	var answers [][]byte
	for try := 0; ; try++ {
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETOBJ, unix.NLM_F_DUMP)
		header := []byte{unix.NFPROTO_INET, 0, 0, 0} // struct nfgenmsg
		req.AddRawData(append(header, nl.NewRtAttr(unix.NFTA_OBJ_TABLE, nl.ZeroTerminated(table)).Serialize()...))
		var err error
		answers, err = req.Execute(unix.NETLINK_NETFILTER, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWOBJ)
		if errors.Is(err, unix.ENOENT) {
			return nil // the table is not there yet
		}
		if errors.Is(err, nl.ErrDumpInterrupted) && try < 5 {
			continue // the rules were changed meanwhile
		}
		if err != nil {
			return fmt.Errorf("list counters of nftables: %w", err)
		}
		break
	}
	for _, a := range answers {
		name, packets, err := parseCounter(a)
		if err != nil {
			return fmt.Errorf("list counters of nftables: %w", err)
		}
		if name != "" {
			sum[name] += packets
		}
	}
	return nil
}

// parseCounter reads an object of our table; name is empty when it is no counter.
func parseCounter(object []byte) (name string, packets uint64, err error) {
	if len(object) < 4 { // struct nfgenmsg
		return "", 0, errors.New("an object of 4 bytes or less")
	}
	attrs, err := nl.ParseRouteAttr(object[4:])
	if err != nil {
		return "", 0, err
	}
	of := ""
	counter := false
	for _, a := range attrs {
		switch a.Attr.Type & nl.NLA_TYPE_MASK {
		case unix.NFTA_OBJ_TABLE:
			of = string(bytes.TrimRight(a.Value, "\x00"))
		case unix.NFTA_OBJ_NAME:
			name = string(bytes.TrimRight(a.Value, "\x00"))
		case unix.NFTA_OBJ_TYPE:
			counter = bytes.Equal(a.Value, []byte{0, 0, 0, 1}) // NFT_OBJECT_COUNTER
		case unix.NFTA_OBJ_DATA:
			data, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return "", 0, err
			}
			for _, d := range data {
				if d.Attr.Type&nl.NLA_TYPE_MASK == unix.NFTA_COUNTER_PACKETS && len(d.Value) == 8 {
					packets = binary.BigEndian.Uint64(d.Value)
				}
			}
		}
	}
	if of != table || !counter {
		return "", 0, nil
	}
	return name, packets, nil
}
