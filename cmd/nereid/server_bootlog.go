package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) serverBootLog() *cobra.Command {
	var which, powerOn string
	var list bool
	cmd := &cobra.Command{
		Use:   "boot-log SERVER",
		Short: "Draw where each second of a boot went, and show each refusal",
		Long: `Draws a boot as a waterfall of its legs, lists its events with time, bytes and rate, and shows every refusal with its reason.
A machine that never enrolled is found by its MAC address.

The clock starts at the firmware's first DHCP message: nobody sees the time before it. --power-on says when the power came, and
the first leg then has the firmware's own time in it.

` + serverIDs,
		Example: lines("nereid server boot-log cn0",
			"nereid server boot-log 52:54:00:00:00:10 --boot 1      # the boot before the last",
			"nereid server boot-log cn0 --power-on 2026-11-22T10:15:00Z",
			"nereid server boot-log cn0 --list",
			"nereid server boot-log cn0 -o json | jq '.legs'"),
		Args:              wants("SERVER"),
		ValidArgsFunction: a.completeServers(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			var on time.Time
			if powerOn != "" {
				t, err := time.Parse(time.RFC3339Nano, powerOn)
				if err != nil {
					return usagef("--power-on %q: want RFC 3339, as 2026-11-22T10:15:00Z", powerOn)
				}
				on = t
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			boots, err := a.boots(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if list {
				return a.emit(boots, func(w io.Writer) error { return a.bootTable(boots).write(w) })
			}
			b, err := pickBoot(boots, which, args[0])
			if err != nil {
				return err
			}
			if !on.IsZero() {
				if b, err = fromPowerOn(b, on); err != nil {
					return err
				}
			}
			return a.emit(b, func(w io.Writer) error { return a.bootCard(w, b, on) })
		},
	}
	cmd.Flags().StringVar(&which, "boot", "0", "which boot: 0 the last, 1 the one before ..., or the beginning of a boot id")
	cmd.Flags().StringVar(&powerOn, "power-on", "", "when the power came (RFC 3339): count from there")
	cmd.Flags().BoolVar(&list, "list", false, "list the boots instead")
	return cmd
}

// boots gives the boots of a server. A MAC means the machine that has it: it may
// belong to no server, or claim the UUID of another machine's.
func (a *app) boots(ctx context.Context, c *api.Client, id string) ([]api.Boot, error) {
	if mac, err := net.ParseMAC(id); err == nil && len(mac) == 6 {
		if boots, err := c.BootsByMAC(ctx, mac.String()); err != nil || len(boots) > 0 {
			return boots, err
		}
	}
	s, err := a.find(ctx, c, id)
	var p *api.Problem
	if errors.As(err, &p) && p.Status == 404 && strings.Contains(id, ":") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return c.Boots(ctx, s.UUID)
}

// pickBoot finds one boot, by its number from the newest or by its id.
func pickBoot(boots []api.Boot, which, id string) (api.Boot, error) {
	if len(boots) == 0 {
		return api.Boot{}, notFoundf("%s has no boot record; one begins when it asks for an address on the admin network: power it on, and see: nereid explain --mac MAC", id)
	}
	if n, err := strconv.Atoi(which); err == nil && n >= 0 && len(which) < 4 {
		if n >= len(boots) {
			return api.Boot{}, notFoundf("boot %d of %s: there are records of %s; see: nereid server boot-log %s --list", n, id, api.Plural(len(boots), "boot"), id)
		}
		return boots[n], nil
	}
	var found []api.Boot
	for _, b := range boots {
		if which != "" && strings.HasPrefix(b.ID, strings.ToLower(which)) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		return api.Boot{}, notFoundf("boot %q of %s: %d boot ids begin so; see: nereid server boot-log %s --list", which, id, len(found), id)
	}
	return found[0], nil
}

// fromPowerOn moves the beginning of a boot to when the power came; the time
// until the first DHCP message goes into the first leg.
func fromPowerOn(b api.Boot, on time.Time) (api.Boot, error) {
	before := b.Started.Sub(on).Seconds()
	switch {
	case before < 0:
		return b, usagef("--power-on %s is after the boot's first DHCP message (%s); is it another boot's? See --boot", on.UTC().Format(time.RFC3339), b.Started.UTC().Format(time.RFC3339))
	case before > 3600:
		return b, usagef("--power-on %s is %s before the boot's first DHCP message; is it another boot's? See --boot", on.UTC().Format(time.RFC3339), span(seconds(before)))
	}
	legs := make([]api.BootLeg, len(b.Legs))
	for i, l := range b.Legs {
		l.Start += before
		if i == 0 {
			l.Seconds += l.Start
			l.Start = 0
		}
		legs[i] = l
	}
	b.Legs = legs
	return b, nil
}

// archName names the firmware of a machine (RFC 4578, section 2.1, and the
// processor architecture types IANA keeps for it).
func archName(arch uint16) string {
	switch arch {
	case 0:
		return "BIOS"
	case 6:
		return "UEFI IA32"
	case 7, 9:
		return "UEFI x64"
	case 11:
		return "UEFI arm64"
	case 15:
		return "UEFI IA32 HTTP"
	case 16:
		return "UEFI x64 HTTP"
	}
	return fmt.Sprintf("architecture %d", arch)
}

// outcome says in one sentence what became of a boot, and whether it is good.
// A server that waits for approval has booted well, and has not synced.
func outcome(b api.Boot, zero time.Time, from string) (sentence string, good bool) {
	var synced time.Time
	refusal := ""
	for _, e := range b.Events {
		switch {
		case e.Stage == api.StageFirstSync:
			synced, refusal = e.Time, ""
		case isRefusal(e):
			refusal = string(e.Stage) + ": " + e.Detail
		}
	}
	after := func(t time.Time) string { return fmt.Sprintf("%.1f s after %s", t.Sub(zero).Seconds(), from) }
	switch {
	case refusal != "":
		return refusal, false
	case b.Done != nil && synced.IsZero():
		return "enrolled " + after(*b.Done) + ", and waits for approval", true
	case b.Done != nil && synced.Sub(*b.Done) > time.Second:
		return fmt.Sprintf("enrolled %s; first sync, once approved, %.1f s later", after(*b.Done), synced.Sub(*b.Done).Seconds()), true
	case !synced.IsZero():
		return "first sync " + after(synced), true
	case len(b.Events) == 0:
		return "nothing seen of it", false
	}
	return "no first sync; last seen: " + string(b.Events[len(b.Events)-1].Stage), false
}

// firstMessage is where a boot's clock starts.
const firstMessage = "the first DHCP message"

func (a *app) bootTable(boots []api.Boot) *table {
	t := a.table("NO", "STARTED", "BOOT", "MAC", "FIRMWARE", "PLATFORM", "OUTCOME")
	t.prose = true
	for i, b := range boots {
		what, good := outcome(b, b.Started, firstMessage)
		st := plain
		if !good {
			st = yellow
		}
		t.add(number("%d", i), text(stamp(b.Started)), text(b.ID), text(b.MAC), text(archName(b.Arch)), text(b.Platform), styled(what, st))
	}
	return t
}

func isRefusal(e api.BootEvent) bool {
	return e.Stage == api.StageRefused || e.Stage == api.StageFailed
}

func (a *app) bootCard(w io.Writer, b api.Boot, on time.Time) error {
	c := a.card(w)
	trial := ""
	if b.Trial {
		trial = " (on trial)"
	}
	c.printf("Boot %s\n", bold.paint(oneLine(b.ID), c.colour))
	c.linef("machine", "%s, %s", b.MAC, archName(b.Arch))
	c.line("uuid", b.UUID)
	c.line("address", b.Address)
	c.line("platform", b.Platform+trial)
	c.line("started", stamp(b.Started))
	zero := b.Started
	if !on.IsZero() {
		zero = on
		c.line("power on", stamp(on))
	}
	if len(b.Legs) > 0 {
		c.printf("\n")
		if c.err == nil {
			_, c.err = io.WriteString(w, waterfall(b.Legs, a.width(a.stdout), a.unicode()))
		}
	}
	if len(b.Events) > 0 {
		c.printf("\n")
		t := &table{header: []string{"TIME", "EVENT", "BYTES", "RATE", "DETAIL"}, prose: true}
		for _, e := range b.Events {
			t.add(eventRow(e, zero)...)
		}
		c.table(t)
	}
	c.printf("\n")
	from := firstMessage
	if !on.IsZero() {
		from = "power on"
	}
	if what, good := outcome(b, zero, from); good {
		c.printf("%s\n", green.paint("Good: "+oneLine(what), c.colour))
	} else {
		c.printf("%s\n", yellow.paint("Not there: "+oneLine(what), c.colour))
	}
	return c.err
}

func eventRow(e api.BootEvent, zero time.Time) []cell {
	st := plain
	if isRefusal(e) {
		st = red
	}
	detail := e.Detail
	if e.Count > 1 {
		detail = strings.TrimSpace(fmt.Sprintf("%s (%d times)", detail, e.Count))
	}
	var bytes, rate cell
	bytes.right, rate.right = true, true
	switch {
	case e.Stage == api.StageStub || e.Stage == api.StageRoot || e.Stage == api.StageSwitchRoot:
		if e.Seconds > 0 { // no transfer's time, see api.BootEvent
			detail = strings.TrimSpace(fmt.Sprintf("%s (%.1f s after the kernel started)", detail, e.Seconds))
		}
	case e.Bytes > 0 && e.Seconds > 0:
		rate.text = size(int64(float64(e.Bytes)/e.Seconds)) + "/s"
	}
	if e.Bytes > 0 {
		bytes.text = size(e.Bytes)
	}
	return []cell{
		{text: fmt.Sprintf("%+.3f", e.Time.Sub(zero).Seconds()), right: true},
		styled(string(e.Stage), st), bytes, rate, styled(detail, st),
	}
}
