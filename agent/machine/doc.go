// Package machine makes one server's instances what they are to be: Linux zones, which
// are systemd-nspawn in transient units of systemd (systemd-nspawn(1),
// org.freedesktop.systemd1(5)), and virtual machines, which are QEMU in units of their own.
// Packages zone and vm are what happens in and around a unit; brand is what differs.
//
//	wanted ──┐
//	         ├─> plan ──> steps ──> datasets, files, units
//	seen   ──┘
//
// Facts to know before changing it:
//
//   - plan is pure, and its steps print themselves. What it plans from is memory: one
//     listing of datasets and one of units at Open, and from then on what was done here
//     and what systemd tells of. One change costs the same whatever else there is.
//   - Nothing is waited for that another has to bring: an image, a NIC, the end of a
//     zone. Then Set says what it waits for, and Changed tells when to call it again.
//   - A unit is named by its zone's UUID, nereid-zone-UUID.service, and is all that is
//     needed to find it again: an agent that was killed, or is a newer one, adopts what
//     runs. What runs and is not known here is told of and left alone.
//   - A zone has 65,536 user IDs of its own for as long as it runs. They are a matter of
//     the run: its files have the owners 0 to 65535 on the disk (idmapped mounts).
//   - A request (reboot, signal, force) is done once: its id is in the zone's files
//     before it is carried out. A start is an answer to all requests made before.
//   - Snapshots have a plan of their own (planSnapshots), as what is wrong with an instance
//     hinders no snapshot of it, and the other way round. One is taken once, under its id,
//     which is on the pool; what was taken and is not there is not taken again. Only a
//     tombstone destroys one, or the schedule that took it.
//   - A rollback is a request, too. Its id is on the pool in the transaction that carries
//     it out, and the instance runs neither before nor in between: what is done twice, when
//     power goes, is done to the same.
//   - A virtual machine's QEMU is asked and heard at its monitor (package qmp), by one
//     connection each. It needs nobody: its unit presses its power button when it is to
//     stop. UEFI, TPMs, the guest agent, its screen, and disks and NICs that come and go
//     while it runs are not there yet: what is asked for of them is refused, with words.
//   - A zone that ended by itself, without a failure, stays down until the next request,
//     another wish or the server's next boot. One that failed is started again, less and
//     less often.
package machine
