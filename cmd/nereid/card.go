package main

import (
	"fmt"
	"io"
	"strings"

	"nereid/api"
)

// card prints named values below a title, in sections. On a terminal what is
// wider than it wraps.
type card struct {
	w      io.Writer
	colour bool
	width  int // of the terminal; 0: lines may have any length
	err    error
}

func (a *app) card(w io.Writer) *card {
	return &card{w: w, colour: a.escapes(a.stdout), width: a.fit()}
}

func (c *card) printf(format string, args ...any) {
	if c.err == nil {
		_, c.err = fmt.Fprintf(c.w, format, args...)
	}
}

func (c *card) section(title string) { c.printf("\n%s\n", bold.paint(title, c.colour)) }

// line prints one value; nothing when it is empty.
func (c *card) line(name, value string) {
	if value = strings.TrimSpace(oneLine(value)); value != "" {
		c.hang(fmt.Sprintf("  %-12s ", name), value, plain)
	}
}

// hang prints a text behind a mark, and its further lines below its first.
func (c *card) hang(mark, text string, st style) {
	lines := []string{text}
	if c.width > 0 {
		lines = wrap(text, c.width-runes(mark))
	}
	for _, s := range lines {
		c.printf("%s%s\n", mark, st.paint(s, c.colour))
		mark = strings.Repeat(" ", runes(mark))
	}
}

func (c *card) linef(name, format string, args ...any) { c.line(name, fmt.Sprintf(format, args...)) }

func (c *card) bullets(items []string, st style) {
	for _, s := range items {
		c.hang("  - ", oneLine(s), st)
	}
}

func (c *card) table(t *table) {
	if c.err != nil || len(t.rows) == 0 {
		return
	}
	var b strings.Builder
	t.colour, t.width = c.colour, max(0, c.width-2)
	if c.err = t.write(&b); c.err == nil {
		c.printf("  %s\n", strings.ReplaceAll(strings.TrimSuffix(b.String(), "\n"), "\n", "\n  "))
	}
}

func (a *app) serverCard(w io.Writer, s api.Server) error {
	c := a.card(w)
	c.printf("%s  %s\n", bold.paint(oneLine(named(s)), c.colour), stateStyle(s.State).paint(oneLine(string(s.State)), c.colour))
	c.line("why", s.StateReason)
	c.line("uuid", s.UUID)
	c.line("address", s.Address)
	c.line("macs", strings.Join(s.MACs, " "))
	c.line("last seen", a.lastSeen(s))
	if s.Booted != nil {
		c.linef("booted", "%s (%s)", stamp(*s.Booted), a.ago(*s.Booted))
	}
	c.line("boot", s.BootID)
	c.linef("known since", "%s", stamp(s.Created))
	c.linef("approved", "%s", yesNo(s.Approved))
	c.linef("set up", "%s", yesNo(s.SetUp))
	if len(s.Alerts) > 0 {
		c.section("Alerts")
		c.bullets(s.Alerts, yellow)
	}
	a.platformSection(c, s.Platform)
	if s.Sysinfo != nil {
		hardwareSections(c, *s.Sysinfo)
	}
	if s.Report != nil {
		reportSections(c, *s.Report)
	}
	if s.Usage != nil {
		u := *s.Usage
		c.section("Now")
		c.linef("uptime", "%s", span(seconds(u.UptimeSeconds)))
		c.line("memory", memoryCell(s))
		c.linef("load", "%.2f", u.Load1)
		c.linef("agent", "%s resident, %.1f s of CPU", size(u.AgentRSSBytes), u.AgentCPUSeconds)
		if u.Network != nil {
			networkSection(c, *u.Network)
		}
	}
	return c.err
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (a *app) platformSection(c *card, p api.PlatformChoice) {
	c.section("Platform")
	c.line("running", p.Running)
	next := p.Next
	if p.Trial {
		next += fmt.Sprintf(" (on trial, %s so far)", api.Plural(p.Attempts, "boot"))
	}
	c.line("next boot", next)
	c.line("why", p.Reason)
	c.line("assigned", firstOf(p.Assigned, "none: the default"))
	c.line("previous", p.Previous)
	if p.Failed != "" {
		c.line("failed", p.Failed+" (did not reach a first sync on this server)")
	}
}

func hardwareSections(c *card, s api.Sysinfo) {
	c.section("Hardware")
	c.line("machine", strings.TrimSpace(s.Manufacturer+" "+s.Product))
	c.line("serial", s.Serial)
	c.line("firmware", strings.TrimSpace(s.Firmware+" "+s.BIOSVersion))
	c.linef("cpu", "%s, %s, %s, %s, virtualization %s", firstOf(s.CPU.Model, "unknown model"),
		api.Plural(s.CPU.Sockets, "socket"), api.Plural(s.CPU.Cores, "core"), api.Plural(s.CPU.Threads, "thread"), firstOf(s.CPU.Virtualization, "unknown"))
	c.line("hypervisor", hypervisorText(s.Hypervisor))
	c.line("memory", size(s.MemoryBytes))
	c.line("kernel", s.Kernel)

	c.section("Disks")
	t := &table{header: []string{"NAME", "SIZE", "KIND", "MODEL", "SERIAL", "USE"}}
	for _, d := range s.Disks {
		t.add(text(d.Name), cell{text: size(d.SizeBytes), right: true}, text(diskKind(d)), text(d.Model), text(d.Serial), text(diskUse(d)))
	}
	if c.table(t); len(t.rows) == 0 {
		c.printf("  none\n")
	}

	c.section("Network interfaces")
	t = &table{header: []string{"NAME", "MAC", "LINK", "SPEED", "DRIVER", "PCI"}}
	for _, n := range s.NICs {
		link, speed := "down", ""
		if n.LinkUp {
			link = "up"
		}
		if n.SpeedMbps > 0 {
			speed = fmt.Sprintf("%d Mbit/s", n.SpeedMbps)
		}
		t.add(text(n.Name), text(n.MAC), text(link), text(speed), text(n.Driver), text(n.PCIAddress))
	}
	if c.table(t); len(t.rows) == 0 {
		c.printf("  none\n")
	}
}

func diskKind(d api.Disk) string {
	kind := "spinning"
	if d.SolidState {
		kind = "solid state"
	}
	kind = strings.TrimSpace(d.Transport + " " + kind)
	if d.Removable {
		kind += ", removable"
	}
	if d.ReadOnly {
		kind += ", read-only"
	}
	return kind
}

func diskUse(d api.Disk) string {
	switch {
	case d.InUseBy != "":
		return d.InUseBy
	case d.Content != "":
		return "holds " + d.Content
	}
	return "blank"
}

func reportSections(c *card, r api.Report) {
	if len(r.Pools) > 0 {
		c.section("Pools")
		t := &table{header: []string{"NAME", "HEALTH", "SIZE", "USED", "GUID", "ROLE"}}
		for _, p := range r.Pools {
			role := ""
			if p.System {
				role = "system"
			}
			t.add(text(p.Name), styled(p.Health, poolStyle(p.Health)), cell{text: size(p.SizeBytes), right: true},
				cell{text: percent(p.AllocatedBytes, p.SizeBytes), right: true}, text(p.GUID), text(role))
		}
		c.table(t)
	}
	if r.Setup != nil && !r.Setup.Complete {
		c.section("Setup")
		c.line("phase", r.Setup.Phase)
		c.line("error", r.Setup.Error)
	}
	if len(r.Problems) > 0 {
		c.section("Problems")
		c.bullets(r.Problems, red)
	}
	if len(r.Unexpected) > 0 {
		c.section("There, but not wanted by the head node (never removed for that)")
		c.bullets(r.Unexpected, plain)
	}
	if len(r.UnexpectedNICs) > 0 {
		c.section("NICs that the head node did not ask for (they stay)")
		t := &table{header: []string{"MAC", "INSTANCE", "ON", "ADDRESSES"}}
		for _, u := range r.UnexpectedNICs {
			t.add(text(u.MAC), text(u.Instance), text(segment(u.Tag, u.VLAN, u.VNI)), text(strings.Join(u.Addresses, ", ")))
		}
		c.table(t)
	}
	c.section("Agent")
	c.line("version", r.AgentVersion)
	c.linef("boot", "stub %.1f s, switch root %.1f s, systemd %.1f s, agent %.1f s, first sync %.1f s after the kernel started",
		r.Boot.Stub, r.Boot.SwitchRoot, r.Boot.Systemd, r.Boot.Agent, r.Boot.FirstSync)
}
