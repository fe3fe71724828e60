package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// modules are what a later NIC tag, bond, VLAN, VNI, rule or virtual machine needs of
// the kernel. They are loaded before the first zone: from then on the kernel loads none
// by itself, as a zone's root could have it do. AF_ALG and AF_VSOCK are not among them:
// nothing here needs them, no namespace parts them, and any zone's user could use them.
var modules = strings.Fields(`veth bridge vxlan 8021q bonding dummy tun fuse overlay loop
	nf_tables nft_chain_nat nft_ct nft_nat nft_masq nft_redir nft_limit nft_log nft_reject nft_reject_inet
	nft_reject_bridge nft_meta_bridge nft_numgen nft_hash nft_fib nft_fib_inet nft_fib_ipv4 nft_fib_ipv6
	nft_connlimit nft_quota nft_objref nft_dup_netdev nft_fwd_netdev nft_compat nft_synproxy nft_socket nft_tproxy
	nf_conntrack nf_conntrack_bridge nf_conntrack_netlink nf_nat nfnetlink nfnetlink_log
	nf_log_syslog inet_diag tcp_diag udp_diag unix_diag netlink_diag af_packet_diag packet
	sch_fq_codel sch_htb sch_ingress cls_u32 cls_flower act_mirred act_police ifb macvlan macvtap
	vhost vhost_net kvm kvm_intel kvm_amd dm_crypt`)

// Prepare makes the server ready for zones: the kernel has all modules that are needed
// later and loads none by itself any more; ZFS's counters, which name all datasets, are
// root's to read; and pages of 2 MiB are for programs that ask for them, as QEMU does: a
// zone of 16 MiB has 8 (admin-guide/mm/transhuge.rst).
func Prepare(ctx context.Context) error {
	const own = "/proc/sys/kernel/modprobe"
	set, err := os.ReadFile(own)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(set)) != "" {
		// Of some there is nothing in this kernel or for this processor.
		out, err := exec.CommandContext(ctx, "modprobe", append([]string{"-q", "-a"}, modules...)...).CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return fmt.Errorf("modprobe: %w: %s", err, out)
		}
		// With no program to call the kernel does not even begin to look for a module: a
		// zone that asks for them costs the server nothing (sysctl/kernel.rst, modprobe).
		if err := os.WriteFile(own, []byte("\n"), 0); err != nil {
			return err
		}
	}
	const huge = "/sys/kernel/mm/transparent_hugepage/enabled"
	if err := os.WriteFile(huge, []byte("madvise"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Chmod("/proc/spl", 0o700); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
