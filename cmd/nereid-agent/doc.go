// Command nereid-agent makes the server it runs on match its spec.
//
//	nereid-agent run          the agent itself, as the systemd unit starts it
//	nereid-agent status       how it stands with its head node, what it last reported
//	nereid-agent sysinfo      this server's hardware as JSON
//	nereid-agent disklayout   the pool a setup would make of a list of disks
//	nereid-agent version
//
// Exit codes: 0 success, 1 failure, 78 this machine was not booted by Nereid.
package main
