// Package qmp speaks with a QEMU over its QMP monitor (QEMU, docs/interop/qmp-spec.rst):
// JSON objects, one a line, over a Unix socket.
//
//	Call ──> request with an id ──> QEMU
//	Call <── reply with that id <── one reader <── QEMU
//	                 Events <──────────┘
//
// Facts to know before using it:
//
//   - A monitor serves one client at a time; a second connection waits for its greeting
//     until the first one has ended. Dial bounds that by its context.
//   - What QEMU says is not trusted: a guest may have taken it over. A line has at most
//     maxLine bytes, events that nobody takes are counted and dropped, and a reply that
//     nobody waits for is none.
//   - A call whose context ends may still be carried out.
package qmp
