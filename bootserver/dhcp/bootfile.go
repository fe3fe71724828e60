package dhcp

import (
	"fmt"
	"net/netip"
	"strings"

	"nereid/api"
)

// Client architectures (RFC 4578 section 2.1 with its errata, and IANA's list).
const (
	ArchBIOS     = 0
	ArchUEFI     = 7
	ArchUEFIBC   = 9 // what most x64 firmware was built to send before the erratum
	ArchUEFIHTTP = 16
)

// The iPXE programs that are offered, by their names in the directory of
// Debian's ipxe package. Over TFTP machines get the ones that drive the NIC
// through the firmware's own driver: they work on every NIC the firmware booted
// from, know which one that was, are small and start fast (in QEMU snponly.efi
// asks for its address 2 s after it was sent, ipxe.efi after 6 s). After UEFI HTTP
// boot the firmware may have no such driver to offer, so ipxe.efi brings its own.
const (
	FileBIOS     = "undionly.kpxe"
	FileUEFI     = "snponly.efi"
	FileUEFIHTTP = "ipxe.efi"
)

// Settings are the facts answers are made of.
type Settings struct {
	// Address is the boot server's own address with the admin network's length.
	Address netip.Prefix
	// Clients is "pxe" (firmware, iPXE, our platform) or "all".
	Clients string
	// URL is the boot server's HTTP address without a slash at its end.
	URL string
}

// Served reports whether a client of this class is answered, and if not, why.
func (s Settings) Served(r api.BootRequest) (bool, string) {
	if s.Clients == "all" || r.Boots() || strings.HasPrefix(r.VendorClass, "nereid") {
		return true, ""
	}
	class := "no vendor class"
	if r.VendorClass != "" {
		class = fmt.Sprintf("vendor class %q", r.VendorClass)
	}
	return false, fmt.Sprintf("the client sent %s and is neither firmware, iPXE nor a platform; set clients = \"all\" to answer it", class)
}

// ScriptURL is where iPXE finds the script of a boot.
func (s Settings) ScriptURL(bootID string) string {
	return s.URL + "/boot/" + bootID + "/script.ipxe"
}

// BootFile returns the boot file of an answer (option 67), or none and why.
func (s Settings) BootFile(r api.BootRequest, a api.BootAnswer) (file, why string) {
	switch {
	case !a.Boot:
		return "", "the answer is an address only"
	case r.IPXE() && a.BootID == "":
		return "", "the boot has no id, so there is no script"
	case r.IPXE():
		return s.ScriptURL(a.BootID), ""
	case strings.HasPrefix(r.VendorClass, "HTTPClient"):
		if r.Arch == ArchUEFIHTTP {
			return s.URL + "/ipxe/" + FileUEFIHTTP, ""
		}
		return "", fmt.Sprintf("no iPXE for HTTP boot of client architecture %d; 16 (UEFI x64 HTTP) is supported", r.Arch)
	case !strings.HasPrefix(r.VendorClass, "PXEClient"):
		return "", "the client is not firmware, so it needs no boot file"
	}
	switch r.Arch {
	case ArchBIOS:
		return FileBIOS, ""
	case ArchUEFI, ArchUEFIBC:
		return FileUEFI, ""
	}
	return "", fmt.Sprintf("no iPXE for client architecture %d; 0 (BIOS), 7 and 9 (UEFI x64) and 16 (UEFI x64 HTTP) are supported", r.Arch)
}
