// Package enter runs programs in zones that run already, and moves files in and out.
//
// Run is the server's side: it has nsenter(1) join the namespaces of the zone's first
// process, in the zone's control group, and execute the program nereid-zone from the
// server's own file system. Inside is that program's side: it joins the zone's mount
// namespace by itself, so that nothing of the zone's is executed before it has given up
// what the zone has not: capabilities beside the zone's bounding set, and the system calls
// in denied. What enters a zone has otherwise none of the sandbox that systemd-nspawn made
// for the zone's own processes.
//
// Both sides talk over a socket that is Inside's descriptor 3. What comes back over it is
// as hostile as the zone.
package enter
