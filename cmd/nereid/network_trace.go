package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) networkTrace() *cobra.Command {
	var r api.TraceRequest
	var still bool
	cmd := &cobra.Command{
		Use: "trace SRC DST", Short: "Say why two addresses can or cannot talk",
		Long: `Follows the first packet of a connection through what the head node knows: each hop, the map's entry and version, what each firewall says and by
which rule, NAT, and the MTU of the networks on the way. SRC is the MAC of a NIC or one of its addresses, DST that or any address. Between two servers of
a fabric, and to the gateway server that does NAT, the first one measures how large a packet gets through on the underlay, in at most five seconds: a switch
that drops what is too large for it (an MTU black hole) is found. Nothing else is sent. Exit status 4 when something is in the way.`,
		Example: lines("nereid network trace 10.88.88.10 10.88.88.20 --proto tcp --port 443",
			"nereid network trace 02:6e:72:00:00:01 198.51.100.7 --no-measure"),
		Args:              wants("SRC", "DST"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			r.Src, r.Dst, r.Measure = args[0], args[1], !still
			t, err := c.TraceNetwork(ctx, r)
			if err != nil {
				return err
			}
			if err := a.emit(t, func(w io.Writer) error { return a.traceTable(w, t) }); err != nil {
				return err
			}
			if !t.Arrives {
				return refusedf("%s does not reach %s: %s", r.Src, r.Dst, t.Why)
			}
			return nil
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&r.Protocol, "proto", "", "tcp, udp, icmp or icmp6 (default: an echo request)")
	fl.Uint16Var(&r.Port, "port", 0, "destination port of tcp and udp")
	fl.BoolVar(&still, "no-measure", false, "send no packet; tell only what the head node knows")
	fl.StringVar(&r.Owner, "owner", "", "account, where an address of fabrics is not unique")
	_ = cmd.RegisterFlagCompletionFunc("proto", cobra.FixedCompletions([]string{"tcp", "udp", "icmp", "icmp6"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) traceTable(w io.Writer, t api.Trace) error {
	tab := a.table("HOP", "WHERE", "WHAT", "DETAIL")
	tab.prose = true
	for i, h := range t.Hops {
		st := plain
		if h.Blocked {
			st = red
		}
		tab.add(number("%d", i+1), text(h.Where), styled(h.What, st), styled(h.Detail, st))
	}
	if err := tab.write(w); err != nil {
		return err
	}
	verdict := "Arrives"
	if !t.Arrives {
		verdict = "Does not arrive"
	}
	mtu := fmt.Sprintf("MTU %d bytes, not measured", t.MTU)
	switch {
	case t.Carried == t.MTU:
		mtu = fmt.Sprintf("MTU %d bytes, measured", t.MTU)
	case t.Carried > 0:
		mtu = fmt.Sprintf("MTU %d bytes, of which %d get through", t.MTU, t.Carried)
	}
	c := a.card(w)
	c.hang("", fmt.Sprintf("%s: %s. %s.", verdict, oneLine(t.Why), mtu), plain)
	return c.err
}
