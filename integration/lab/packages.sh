#!/bin/sh
# Installs what Nereid's build, lab and tests need on Debian 12 or 13, and
# nothing that is there already. Root is needed only where something is missing.
# Can be run again at any time.
#
#   packages.sh [build|lab|headnode|test|bench|vagrant]...     (default: build lab)
set -eu

build="mmdebstrap squashfs-tools zstd xz-utils cpio kmod ca-certificates"
lab="qemu-system-x86 qemu-utils seabios ovmf ipxe iproute2 procps busybox"
headnode="ipxe ca-certificates"
test="iputils-ping iproute2 procps udhcpc isc-dhcp-client dhcpcd5 atftp tftp-hpa curl tshark nftables cloud-init python3-serial swtpm qemu-guest-agent"
bench="kea-dhcp4-server kea-admin"
vagrant="vagrant vagrant-libvirt"

[ $# -gt 0 ] || set -- build lab

want=""
for set in "$@"; do
	case "$set" in
	build) want="$want $build" ;;
	lab) want="$want $lab" ;;
	test) want="$want $test" ;;
	bench) want="$want $bench" ;;
	vagrant) want="$want $vagrant" ;;
	headnode) want="$want $headnode" ;;
	*) echo "packages.sh: unknown set $set: want build, lab, headnode, test, bench or vagrant" >&2; exit 2 ;;
	esac
done

missing=""
for p in $want; do
	dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done

# QEMU 7.2 of Debian 12 corrupts guests under software emulation; backports has
# QEMU 10. The suite is added on the mirror that apt uses already.
. /etc/os-release
backports=""
case " $want " in *" qemu-system-x86 "*)
	if [ "${VERSION_CODENAME:-}" = bookworm ]; then
		have=$(dpkg-query -W -f '${Version}' qemu-system-x86 2>/dev/null || echo 0)
		if dpkg --compare-versions "$have" lt 1:8; then
			backports="-t bookworm-backports"
			case " $missing " in *" qemu-system-x86 "*) ;; *) missing="$missing qemu-system-x86" ;; esac
			case " $missing " in *" qemu-utils "*) ;; *) missing="$missing qemu-utils" ;; esac
		fi
	fi ;;
esac

[ -n "$missing" ] || { echo "packages: all there ($*)"; exit 0; }
[ "$(id -u)" = 0 ] || { echo "packages.sh: needs root to install$missing; run: sudo $0 $*" >&2; exit 1; }
echo "packages: installing$missing"

# Tests use cloud-init's modules alone: it never sets up this machine
# (cloud-init's documentation, "How to disable cloud-init").
case " $missing " in *" cloud-init "*) mkdir -p /etc/cloud && : >/etc/cloud/cloud-init.disabled ;; esac

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quietly() { "$@" >"$log" 2>&1 || { cat "$log" >&2; echo "packages.sh: $* failed; see above" >&2; exit 1; }; }

quietly apt-get update -q
if [ -n "$backports" ]; then
	site=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' 'Created-By: Packages' | head -n 1)
	[ -n "$site" ] || { echo "packages.sh: apt has no source for bookworm; add one to /etc/apt/sources.list" >&2; exit 1; }
	if ! apt-get indextargets --format '$(CODENAME)' | grep -qx bookworm-backports; then
		echo "deb $site bookworm-backports main" >/etc/apt/sources.list.d/nereid-backports.list
		quietly apt-get update -q
	fi
	quietly apt-get install -y -q --no-install-recommends -t bookworm-backports qemu-system-x86 qemu-utils
fi
# shellcheck disable=SC2086
quietly apt-get install -y -q --no-install-recommends $missing
echo "packages: done"
