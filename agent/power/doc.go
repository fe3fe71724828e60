// Package power reboots and shuts down the server it runs on, in the way that
// lets its services stop first, and knows when its service manager started.
//
// The request is handed to the service manager and returns before anything
// happens; the manager then stops the caller as well. An orderly request that
// had no effect can be followed by a forced one, which skips the services but
// still unmounts file systems.
package power
