#!/bin/sh
# Makes a Debian machine a head node: packages, programs, unit, answers, platform.
#
#   headnode.sh BINDIR PLATFORMDIR ADDRESS/PREFIX [INTERFACE]
#
# INTERFACE is looked up by ADDRESS when it is not given. Run as root; run again
# at any time.
set -eu
bin=$1 platform=$2 address=$3
here=$(cd "$(dirname "$0")" && pwd)

"$here/packages.sh" headnode

interface=${4:-$(ip -o -4 addr show | awk -v a="$address" '$4 == a { print $2; exit }')}
[ -n "$interface" ] || { echo "headnode.sh: no interface has $address; configure it or name the interface" >&2; exit 1; }

install -m 0755 "$bin/nereid" "$bin/nereid-headnode" /usr/bin/
"$bin/nereid-headnode" unit >/etc/systemd/system/nereid-headnode.service

data=/var/lib/nereid
if [ ! -d "$data" ]; then
	prefix=${address%.*}
	answers=$(mktemp)
	cat >"$answers" <<EOT
datacenter = "vagrant"
dns_domain = "vagrant.example.com"

[admin]
interface = "$interface"
address   = "$address"
range     = ["$prefix.100", "$prefix.250"]
lease     = "12h"
clients   = "pxe"
EOT
	nereid-headnode init --answers "$answers" --data-dir "$data"
	rm -f "$answers"
fi
systemctl daemon-reload
systemctl enable nereid-headnode.service
systemctl restart nereid-headnode.service # Type=notify: back when it is ready

stamp=$(sed -n 's/.*"stamp": *"\([0-9TZ]*\)".*/\1/p' "$platform/manifest.json" | head -n 1)
nereid platform key add local "$platform/manifest.pub" 2>/dev/null || true # there already
nereid platform import "$platform"
nereid platform default "$stamp"
echo "head node ready; power on the compute nodes, then: nereid server list"
