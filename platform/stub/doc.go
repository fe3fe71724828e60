// Package stub is the init of Nereid's initrd: it loads drivers, configures the
// NIC the server booted from, fetches and verifies the platform's layers, stacks
// them into a root filesystem and enters it.
//
// It is PID 1 and the only program there: everything is done by system calls and
// netlink. It starts no processes, so it has none to reap.
//
// What it reads: /nereid/boot.json (api.BootConfig, a second initrd made for this
// one boot), /lib/modules/RELEASE/modules.{dep,alias,builtin} and the modules they
// name. What it leaves for the platform: /run/nereid/boot.json (0600),
// manifest.json, stub.json (Timings), /etc/hostid and /etc/hostname.
//
// With the kernel argument nereid.root=disk:NAME the boot configuration, the
// manifest and the layers come from a plain tar on that block device instead of
// the network; they are verified in the same way.
//
// A failure is one sentence on every console and an event to the boot server.
// The stub then tries again, after delays from 1 s to 60 s, and restarts the
// server when nothing got on for ten minutes. Steps that were done are kept, and
// a layer goes on where its transfer was cut.
//
// Stub is the sequence and is tested without being PID 1; Kernel is what it asks
// of the operating system.
package stub
