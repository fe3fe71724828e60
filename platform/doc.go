// Package platform builds platform images: a kernel, a small initrd, squashfs
// layers and a signed manifest that names them all by digest.
//
// A build is a list of stages. The key of a stage is the SHA-256 of everything
// that goes into it (packages by digest, the recipe, the digests of the stages
// below), its output is a directory of the cache that appears by rename once it
// is complete, and a second build with the same inputs finds it there. A build
// that is killed leaves at most a scratch directory, which the next one removes.
//
//	modules      spl.ko and zfs.ko for one kernel, compiled by DKMS in a throwaway chroot
//	kernel-tree  the kernel package unpacked, its modules plain, depmod run
//	kernel       kernel.squashfs
//	base         base.squashfs: Debian without kernel, and what a node in RAM does not need switched off
//	firmware     firmware.squashfs (optional): the blobs the kernel's modules ask for
//	qemu         qemu.squashfs (optional): the difference that installing QEMU makes to base
//	nereid       nereid.squashfs: the agent, its unit, the platform's stamp in os-release
//	drivers      the modules an initrd needs to reach the boot server
//	initrd       initrd.img: the stub as /init, and the drivers
//
// BuildImage makes images of zones in the same cache: image-debian and image-tiny are a
// tree, packed, with its manifest; image-debian-oci is an OCI layout of the same tree.
//
// Packages are chosen once, by apt against the machine's own Debian mirror with
// Debian's signatures checked, and written to packages.json by name, version,
// pool path and SHA-256. Chroots are then made from a local repository of exactly
// those files, so that a build from a packages.json takes the same path as a
// fresh one. To see that, build again with --from DIR/packages.json and an empty
// --cache, and compare the digests the two builds print. Chroots live in a mount
// and PID namespace of their own: whatever happens to the build, its mounts and
// processes end with it.
package platform
