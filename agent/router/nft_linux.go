package router

import (
	"bytes"
	"context"
	"encoding/binary"
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
	st, err := k.Read(ctx)
	if err != nil {
		return nil, err
	}
	sum := map[string]uint64{}
	for _, i := range sorted(st.Items) {
		if i.Kind != kindSpace {
			continue
		}
		var out []byte
		err := inside(k.path(i.At), func() (err error) {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			out, err = exec.CommandContext(ctx, "nft", "-j", "list", "counters", "table", "inet", table).Output()
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("nft list counters in %s: %w", i.At, err)
		}
		if err := parseCounters(out, sum); err != nil {
			return nil, err
		}
	}
	return sum, nil
}
