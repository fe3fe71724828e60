package platform

// baseRoots are the packages a node needs, with what they depend on. Not
// zfs-zed: it recommends compilers in.
var baseRoots = []string{
	"systemd", "systemd-sysv", "systemd-container", "dbus", "udev", "kmod",
	"zfsutils-linux", "nftables", "iproute2", "openssh-server",
	"iputils-ping", "procps", "netbase", "ca-certificates", "curl", "zstd", "ethtool",
}

// maskedUnits are systemd units that a root made anew at every boot, on a node
// whose network and pools the agent manages, has no use for. Each costs time on
// every boot; udev-settle alone 17 s under emulation.
var maskedUnits = []string{
	// Caches and first-boot questions: there is nothing to keep them in.
	"systemd-firstboot.service", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service", "systemd-update-done.service",
	"systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-random-seed.service", "ldconfig.service",
	"systemd-machine-id-commit.service", "systemd-journal-flush.service", "systemd-growfs-root.service", "systemd-remount-fs.service",
	// Accounts were made when the image was built; there are no credentials for udev.
	"systemd-sysusers.service", "systemd-udev-load-credentials.service",
	// Modules that load when they are used: graphics for seats, configfs, FUSE's control files.
	"modprobe@drm.service", "modprobe@configfs.service", "modprobe@fuse.service", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
	// TPM measurements of a boot this is not.
	"systemd-pcrmachine.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-pcrphase-initrd.service",
	"systemd-tpm2-setup.service", "systemd-tpm2-setup-early.service",
	// The crash dumps of the firmware's store stay there for the operator.
	"systemd-pstore.service",
	"systemd-rfkill.service", "systemd-rfkill.socket", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount",
	"systemd-hibernate-clear.service", "systemd-backlight@.service",
	// The stub sets the network up and the agent owns it; nothing may wait for it.
	"systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service", "systemd-network-generator.service",
	// The agent imports pools and mounts datasets.
	"systemd-udev-settle.service", "zfs-import-scan.service", "zfs-import-cache.service", "zfs-import.target", "zfs-mount.service", "zfs-share.service",
	"zfs-volume-wait.service", "zfs-volumes.target", "zfs-load-module.service", "zfs.target",
	// Nobody can log in on a terminal: root has no password. Consoles stay free for messages.
	"getty@.service", "getty-static.service", "autovt@.service", "serial-getty@.service", "console-getty.service",
	"sshd-keygen.service", // makes RSA keys too, which takes seconds; nereid-hostkeys does what is needed
	"dpkg-db-backup.timer", "dpkg-db-backup.service", "fstrim.timer", "e2scrub_all.timer", "e2scrub_reap.service", "apt-daily.timer", "apt-daily-upgrade.timer",
	"systemd-tmpfiles-clean.timer", "zfs-scrub-weekly@.timer", "zfs-scrub-monthly@.timer",
}

// maskedGenerators look, at every boot, for things a platform has not.
// systemd-debug-generator and systemd-run-generator stay: a boot with
// systemd.debug_shell=ttyS1 is how a node without network is looked into.
var maskedGenerators = []string{
	"systemd-ssh-generator", "systemd-tpm2-generator", "systemd-hibernate-resume-generator", "systemd-cryptsetup-generator",
	"systemd-gpt-auto-generator", "systemd-veritysetup-generator", "systemd-integritysetup-generator", "systemd-bless-boot-generator",
	"systemd-rc-local-generator", "systemd-sysv-generator", "systemd-system-update-generator", "systemd-import-generator",
	"systemd-getty-generator", "systemd-factory-reset-generator", "zfs-mount-generator",
}

// rootFile is a file or symbolic link of ours in the base layer.
type rootFile struct {
	path string
	text string
	link string // target; then text is not used
}

// enabledUnits are wanted by multi-user.target.
var enabledUnits = []string{"/etc/systemd/system/nereid-hostkeys.service"}

// rootFiles is what the base layer holds besides Debian's packages.
var rootFiles = []rootFile{
	{path: "etc/machine-id"}, // empty: systemd makes one in RAM at boot
	{path: "etc/hostname", text: "nereid\n"},
	{path: "etc/hosts", text: "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"},
	{path: "etc/fstab", text: "# The root filesystem is in RAM; the agent mounts datasets.\n"},
	{path: "etc/resolv.conf", link: "../run/nereid/resolv.conf"},
	{path: "etc/localtime", link: "/usr/share/zoneinfo/Etc/UTC"},
	{path: "etc/issue", text: "Nereid node. Consoles show messages only; log in over SSH.\n\n"},
	{path: "etc/motd", text: "This root filesystem is in RAM and is gone at the next boot. What lasts is in the pool.\n"},
	{path: "etc/systemd/system/default.target", link: "/usr/lib/systemd/system/multi-user.target"},
	{path: "etc/systemd/journald.conf.d/nereid.conf", text: "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\nForwardToSyslog=no\n"},
	{path: "etc/systemd/logind.conf.d/nereid.conf", text: "[Login]\nNAutoVTs=0\nReserveVT=0\n"},
	{path: "etc/systemd/system.conf.d/nereid.conf", text: "[Manager]\nDefaultTimeoutStopSec=30s\nDefaultDeviceTimeoutSec=30s\n"},
	{path: "etc/modprobe.d/nereid.conf", text: "# A mouse on a server is a port that takes seconds to probe.\nblacklist psmouse\n"},
	{path: "etc/sysctl.d/50-nereid.conf", text: "kernel.panic = 30\nkernel.core_pattern = |/bin/false\nkernel.printk = 4 4 1 4\n" +
		// Neighbours of all accounts share one table; the default of 1,024 is for one host (net/core/neighbour.c).
		"net.ipv4.neigh.default.gc_thresh3 = 65536\nnet.ipv6.neigh.default.gc_thresh3 = 65536\n" +
		// A NIC answers ARP for its own addresses only, and asks with them
		// (Documentation/networking/ip-sysctl.rst). Without this a NIC on the same segment
		// would answer for the underlay's address, and VXLAN would go to that NIC.
		"net.ipv4.conf.all.arp_ignore = 1\nnet.ipv4.conf.all.arp_announce = 2\n" +
		// For 2,000 zones: what is counted per user of a zone's own range, or for the
		// whole system (Documentation/admin-guide/sysctl/{fs,kernel,user,vm}.rst).
		"fs.inotify.max_user_instances = 1048576\nfs.inotify.max_user_watches = 1048576\nfs.inotify.max_queued_events = 1048576\n" +
		"fs.aio-max-nr = 524288\nkernel.keys.maxkeys = 4000\nkernel.keys.maxbytes = 4000000\nkernel.pid_max = 4194304\n" +
		"kernel.pty.max = 16384\nvm.max_map_count = 262144\n" +
		"user.max_user_namespaces = 65536\nuser.max_mnt_namespaces = 65536\nuser.max_net_namespaces = 65536\n" +
		"user.max_pid_namespaces = 65536\nuser.max_ipc_namespaces = 65536\nuser.max_uts_namespaces = 65536\nuser.max_cgroup_namespaces = 65536\n" +
		// The kernel's log has addresses and names that are no zone's business.
		"kernel.dmesg_restrict = 1\n"},
	{path: "etc/ssh/sshd_config.d/nereid.conf", text: "HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\n"},
	{path: "etc/systemd/system/nereid-hostkeys.service", text: `[Unit]
Description=SSH host key of this boot, unless the agent brought one
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=multi-user.target
`},
}

// removed are paths, as patterns below the root, that would differ from build to
// build, hold a secret, or are caches.
var removed = []string{
	"etc/ssh/ssh_host_*", "etc/.pwd.lock", "etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
	"etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/apt", "etc/resolv.conf", "etc/machine-id", "etc/localtime", "etc/hostid", "etc/zfs/zpool.cache",
	"var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "var/lib/apt",
	"var/lib/dpkg/*-old", "var/lib/dpkg/lock*", "var/lib/dpkg/triggers/Lock", "var/lib/dpkg/info/*.md5sums", "var/lib/dpkg/available",
	"var/cache/*", "var/log/*", "var/tmp/*", "tmp/*", "run/*", "dev/*", "root/.*", "boot/*",
	"usr/lib/udev/hwdb.bin", "etc/udev/hwdb.bin", "etc/systemd/system/multi-user.target.wants/*zfs*", "etc/systemd/system/zfs*.target.wants",
	"usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian",
}
