package bootserver

import (
	"fmt"
	"net/url"
	"strings"

	"nereid/api"
)

// Names of the images in iPXE, and so of the files Linux's EFI stub opens.
const (
	imageKernel = "vmlinuz"
	imageInitrd = "initrd.img"
	imageConfig = "config.cpio"
)

// After a failure iPXE asks again in retryStep seconds, then in twice that, up to
// retryMax; then it begins a new boot, which gets a configuration of its own. When
// that fails too, it is tried every newBootWait seconds.
const (
	retryStep   = 5
	retryMax    = 20
	newBootWait = 30
)

// Script renders what iPXE is told: to boot, or to wait because the boot is held.
// base is the boot server's URL without a slash at its end.
func Script(base string, plan api.BootPlan) (string, error) {
	if plan.Hold != "" {
		return heldScript(base, plan), nil
	}
	m := plan.Manifest
	if m == nil {
		return "", fmt.Errorf("render script of boot %s: the plan has neither a manifest nor a reason to hold", plan.BootID)
	}
	args, err := kernelArgs(plan)
	if err != nil {
		return "", fmt.Errorf("render script of boot %s: %w", plan.BootID, err)
	}
	file := func(f api.File) string {
		return base + "/files/" + f.SHA256 + "/" + url.PathEscape(f.Name) + "?boot=" + plan.BootID
	}
	self := base + "/boot/" + plan.BootID + "/script.ipxe"
	return strings.Join([]string{
		"#!ipxe",
		"echo Nereid: platform " + screen(m.Stamp) + ", boot " + screen(plan.BootID),
		"isset ${nereid-wait} || set nereid-wait:int32 0",
		"imgfree",
		"kernel --name " + imageKernel + " " + file(m.Kernel) + " " + strings.Join(args, " ") + " || goto failed",
		"initrd --name " + imageInitrd + " " + file(m.Initrd) + " || goto failed",
		"initrd --name " + imageConfig + " " + base + "/boot/" + plan.BootID + "/config.cpio || goto failed",
		"boot " + imageKernel + " || goto failed",
		":failed",
		"imgfree",
		fmt.Sprintf("inc nereid-wait %d", retryStep),
		fmt.Sprintf("iseq ${nereid-wait} %d && goto again ||", retryMax+retryStep),
		"echo Nereid: this platform could not be loaded from " + base + ", see the error above.",
		"echo Nereid: asking again in ${nereid-wait} seconds. On the head node: nereid server boot-log",
		"sleep ${nereid-wait}",
		"chain --replace " + self + " || goto failed",
		":again",
		"echo Nereid: that did not work for too long: beginning a new boot.",
		"set nereid-wait:int32 0",
		"dhcp || goto pause",
		"chain --replace ${filename} || goto pause",
		":pause",
		fmt.Sprintf("sleep %d", newBootWait),
		"goto again",
		"",
	}, "\n"), nil
}

// heldScript shows why a boot is held and asks again.
func heldScript(base string, plan api.BootPlan) string {
	wait := plan.RetryIn
	if wait < 1 {
		wait = newBootWait
	}
	lines := []string{"#!ipxe", "echo Nereid: this server is not booted now."}
	lines = append(lines, say(plan.Hold)...)
	return strings.Join(append(lines,
		":again",
		fmt.Sprintf("echo Nereid: asking again in %s.", api.Plural(wait, "second")),
		fmt.Sprintf("sleep %d", wait),
		"chain --replace "+base+"/boot/"+plan.BootID+"/script.ipxe || goto again",
		""), "\n")
}

// refusedScript shows a refusal and begins a new boot, whose answer may differ.
func refusedScript(p *api.Problem) string {
	lines := []string{"#!ipxe", fmt.Sprintf("echo Nereid: the boot server refuses this boot (%d %s).", p.Status, screen(string(p.Code)))}
	lines = append(lines, say(p.Error())...)
	return strings.Join(append(lines,
		":again",
		fmt.Sprintf("echo Nereid: beginning a new boot in %s.", api.Plural(newBootWait, "second")),
		fmt.Sprintf("sleep %d", newBootWait),
		"dhcp || goto again",
		"chain --replace ${filename} || goto again",
		""), "\n")
}

// kernelArgs are the arguments of the kernel: where its initrds are, which boot
// this is, the platform's own, the plan's, and the consoles. What the plan says
// itself is not said again.
func kernelArgs(plan api.BootPlan) ([]string, error) {
	args := []string{"initrd=" + imageConfig, "initrd=" + imageInitrd}
	given := append(append([]string(nil), plan.Manifest.Args...), plan.Args...)
	has := func(prefix string) bool {
		for _, a := range given {
			if strings.HasPrefix(a, prefix) {
				return true
			}
		}
		return false
	}
	if !has("nereid.boot=") {
		args = append(args, "nereid.boot="+plan.BootID)
	}
	if !has("BOOTIF=") {
		// netX is the interface iPXE used last, so the one it booted from.
		args = append(args, "BOOTIF=01-${netX/mac:hexhyp}")
	}
	seen := map[string]bool{}
	for _, a := range append(given, "console=tty0", "console=ttyS0,115200n8") {
		if seen[a] {
			continue
		}
		seen[a] = true
		if err := checkArg(a); err != nil {
			return nil, err
		}
		args = append(args, a)
	}
	return args, nil
}

// checkArg refuses what iPXE would read as more than one plain word.
func checkArg(a string) error {
	for _, r := range a {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("kernel argument %q: has a blank, a control or a non-ASCII character", a)
		}
	}
	switch {
	case a == "" || a == "||" || a == "&&" || a == ";" || strings.HasPrefix(a, "#"):
		return fmt.Errorf("kernel argument %q: would end the command", a)
	case strings.Contains(a, "${"):
		return fmt.Errorf("kernel argument %q: iPXE would expand ${", a)
	}
	return nil
}

// say breaks a text into echo lines of at most 76 characters after the prefix.
func say(text string) []string {
	const width = 66
	var lines []string
	line := ""
	for _, w := range strings.Fields(screen(text)) {
		for len(w) > width {
			lines, w = append(lines, w[:width]), w[width:]
		}
		if line != "" && len(line)+1+len(w) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+w, " ")
	}
	lines = append(lines, line)
	for i, l := range lines {
		lines[i] = "echo Nereid: " + l
	}
	return lines
}

// screen makes a text safe for an echo line of iPXE: ASCII, no expansion, no
// operators, no comments.
func screen(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		case r == '$':
			return -1
		}
		return r
	}, text)
	words := strings.Fields(text)
	for i, w := range words {
		switch {
		case w == "||":
			words[i] = "or"
		case w == "&&":
			words[i] = "and"
		case w == ";":
			words[i] = ","
		case strings.HasPrefix(w, "#"):
			words[i] = "No." + w[1:]
		}
	}
	return strings.Join(words, " ")
}
