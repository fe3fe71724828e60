// Package agenttest is one stateful fake of what an agent manages.
//
// A World takes the place of the zpool and zfs commands: it accepts exactly the
// argument lists the agent uses, rejects all others, keeps pools and datasets,
// writes partition tables and labels to files that stand for disks, and prints
// itself, so that a test compares text.
package agenttest
