package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) explainCommand() *cobra.Command {
	var r api.BootRequest
	var arch, kind string
	cmd := &cobra.Command{
		Use:   "explain --mac MAC",
		Short: "Say what DHCP would answer a machine, and why",
		Long: `Asks the head node what it would answer a DHCP message, through the same code that answers them, and prints the address, the boot
file, the options, the iPXE script, the rule that decided and what would change it. Nothing is sent to the machine or recorded.`,
		Example: lines("nereid explain --mac 52:54:00:00:00:10",
			"nereid explain --mac 52:54:00:00:00:10 --arch uefi",
			"nereid explain --mac 52:54:00:00:00:10 --user-class iPXE",
			"nereid explain --mac 52:54:00:00:00:10 --arch 16 -o json"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			mac, err := normalMAC(r.MAC)
			if err != nil {
				return err
			}
			r.MAC, r.UUID, r.Explain = mac, strings.ToLower(r.UUID), true
			if r.Arch, err = parseArch(arch); err != nil {
				return err
			}
			kinds := []api.BootKind{api.KindDiscover, api.KindRequest, api.KindInform}
			if r.Kind = api.BootKind(kind); !slices.Contains(kinds, r.Kind) {
				return usagef("--kind %q: want discover, request or inform", kind)
			}
			if !cmd.Flags().Changed("vendor-class") {
				r.VendorClass = vendorClass(r.Arch)
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			e, err := c.Explain(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.emit(e, func(w io.Writer) error { return a.explainCard(w, e) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.MAC, "mac", "", "the machine's MAC address")
	f.StringVar(&r.UUID, "uuid", "", "its SMBIOS UUID, as option 97 gives it")
	f.StringVar(&arch, "arch", "bios", "its firmware: bios, uefi, uefi-http, or the number of option 93")
	f.StringVar(&r.UserClass, "user-class", "", "its user class (option 77): iPXE, when iPXE asks")
	f.StringVar(&r.VendorClass, "vendor-class", "", "its vendor class (option 60; default: as the firmware sends it)")
	f.StringVar(&kind, "kind", "discover", "the message: discover, request or inform")
	_ = cmd.MarkFlagRequired("mac")
	_ = cmd.RegisterFlagCompletionFunc("arch", cobra.FixedCompletions([]string{"bios", "uefi", "uefi-http"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("user-class", cobra.FixedCompletions([]string{"iPXE"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions([]string{"discover", "request", "inform"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func parseArch(s string) (uint16, error) {
	switch strings.ToLower(s) {
	case "bios":
		return 0, nil
	case "uefi":
		return 7, nil
	case "uefi-http":
		return 16, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, usagef("--arch %q: want bios, uefi, uefi-http, or the number of option 93 (RFC 4578)", s)
	}
	return uint16(n), nil
}

// vendorClass is option 60 as PXE firmware sends it (PXE specification 2.1,
// table 2-1; UEFI specification 2.10, section 24.7.3.1 for HTTP boot).
func vendorClass(arch uint16) string {
	client := "PXEClient"
	if arch == 15 || arch == 16 {
		client = "HTTPClient"
	}
	return fmt.Sprintf("%s:Arch:%05d:UNDI:003016", client, arch)
}

func (a *app) explainCard(w io.Writer, e api.Explanation) error {
	c := a.card(w)
	r, ans := e.Request, e.Answer
	asks := fmt.Sprintf("%s from %s, %s", strings.ToUpper(string(r.Kind)), r.MAC, archName(r.Arch))
	if r.UserClass != "" {
		asks += ", user class " + r.UserClass
	}
	c.printf("%s\n", bold.paint(oneLine(asks), c.colour))
	st := map[api.Verdict]style{api.VerdictAnswer: green, api.VerdictNAK: red, api.VerdictSilent: yellow}[ans.Verdict]
	c.printf("  %-12s %s\n", "verdict", st.paint(oneLine(verdictWords(ans)), c.colour))
	c.line("rule", ans.Rule)
	c.line("why", ans.Reason)
	c.line("to change it", ans.Change)
	if ans.Address.IsValid() {
		c.line("address", ans.Address.String())
	}
	c.line("hostname", ans.Hostname)
	c.line("server", ans.Server)
	c.line("platform", ans.Platform)
	c.line("boot file", e.BootFile)
	if len(e.Options) > 0 {
		c.section("Options")
		for _, o := range e.Options {
			c.printf("  %s\n", oneLine(o))
		}
	}
	if e.Script != "" {
		c.section("iPXE script")
		c.printf("  %s\n", strings.ReplaceAll(strings.TrimRight(clean(e.Script), "\n"), "\n", "\n  "))
	}
	return c.err
}

func verdictWords(ans api.BootAnswer) string {
	switch {
	case ans.Verdict == api.VerdictAnswer && ans.Boot:
		return "answered, and boots"
	case ans.Verdict == api.VerdictAnswer:
		return "answered with an address, and nothing to boot"
	case ans.Verdict == api.VerdictNAK:
		return "refused with a NAK"
	case ans.Verdict == api.VerdictSilent:
		return "not answered"
	}
	return string(ans.Verdict)
}
