// Package agent makes one server match its spec, and tells the head node what
// it sees.
//
//	boot.json ──> identity ──> enrol ──> sync ──> mailbox ──> reconciler ──> server
//	                                      ^                       │
//	                                      └──────── board <───────┘
//
// What it does for as long as it lives, each a goroutine (tasks.go):
//
//	feeder            tells the service manager that nothing is stuck
//	inspector         reads the hardware, when it may have changed
//	reconciler        makes the server as the spec says, but for its network
//	syncer            talks to the head node
//	sessions          passes conversations with instances to the head node
//	instance workers  make instances, each by itself, eight at once
//	image workers     fetch the images that instances wait for, each once
//	image collector   removes images that nobody uses, by age and when the pool is full
//	instance keeper   writes down which instances are wanted
//	image keeper      writes down which images there may be
//	snapshot keeper   writes down which snapshots instances are to have
//	pool loader       lists instances and images, once there is a pool
//	cache fitter      bounds ZFS's cache to what instances leave of memory
//	machine watcher   hears from each virtual machine's QEMU how that is
//	unit watcher      hears from systemd what runs
//	metadata watcher  hears what zones change of their metadata
//	networker         makes the network's infrastructure, and rules that are not of one NIC
//	NIC workers       make instances' NICs and their rules, each by itself, eight at once
//	observer          looks at the network and keeps what it saw
//	mapper            applies the maps of VNIs
//	port keeper       writes down which ports there are
//	copy keeper       writes down the rules, and the addresses that they name
//	link watcher      repairs what others change of the network
//	gateway monitor   sees which gateway servers answer
//
// Facts to know before changing it:
//
//   - The syncer talks to the head node and never touches the server; the reconciler
//     works on the server and never talks to the head node. Between them are a
//     mailbox with one slot (the newest spec wins) and the board (the report as it
//     stands). The networker works on the network in the same way.
//   - An instance's NIC has a worker (nics.go, crew.go), as has an instance: a slot for
//     what is wanted of it, its own backoff, and its own sentence in the report. The
//     networker, with the infrastructure, and the reconciler, when the server goes down,
//     open and close the gate that all workers wait at; slots bound how many work at once. None waits for
//     another, nor for a failure that is not its own.
//   - Ports, instances and images are sets that the syncer follows (follow.go): a delta
//     takes effect with its last part; the networker gets the ports with the spec. A
//     keeper writes each to the run directory and the pool, a line a change (setlog.go);
//     the head node may forget a tombstone once both have it. A port or an instance goes
//     only by its tombstone.
//   - Firewall rules, and the addresses that they name, are sets of accounts (copies.go).
//     Which of them are followed follows from the ports: the rules of the accounts that
//     have some here, and the addresses that rules about these name as peers. What they
//     mean for the ports is computed here (firewall.Resolve), once all of them have come:
//     no port is made with a part of its rules. A set that is refused keeps what is known
//     of it until no port needs it.
//   - Instances (instances.go, package machine) are started from what is kept with their
//     datasets, with the head node away too. What is told of them is a delta (see
//     instancelog.go): each change once, until the head node has taken it in.
//   - A change of the set of ports costs what changed: a table of them (porttable.go) takes
//     it in, and what rules mean is kept for each account (meaning.go) until its ports, or a
//     set that it was made of, are others.
//   - What makes the kernel match has three words, and no other is needed. A step (packages
//     network, machine and router) is one change, done or not done, with a text that says
//     it; a pure plan makes steps of what is wanted and what is seen, and a plan of what is
//     as it should be is empty. Package router keeps what it wants and sees as items: a key
//     and a value, which make the plan a comparison of two maps. Package firewall sends a
//     transaction, as nf_tables takes many changes as a whole or not at all. Package storage
//     has calls, each of which looks first: a pool has no plan, but a setup that goes on
//     where it was cut.
//   - The syncer waits for nobody but the head node. What takes long to look at has a
//     goroutine that looks and keeps what it saw: the inspector reads the hardware,
//     the observer the network. The syncer sends what was kept last, however long a
//     step, a lock or a disk takes.
//   - A change of the board cancels the poll in flight, and the next sync carries
//     it at once.
//   - Every step is ensure-shaped: it looks at what is there and makes the rest.
//     The plan is computed again after each round, so a crash between any two
//     steps means that the next run does what is left. What failed is tried again
//     with backoff; what destroys data is tried once per request.
//   - Absence is not deletion. Nothing in this package removes anything but a
//     factory reset, which names the pool it may destroy by GUID.
//   - Power requests name the boot they are for. They are not kept with the last
//     spec, so that an old request cannot act; one that was taken up is marked in
//     the run directory until the machine goes down.
//   - The key is in the run directory (RAM) until setup, and is copied to the
//     pool as setup's last step: a key on the pool means that setup is complete.
//   - Time: the clock is set from time servers; without any from the head node's
//     Date. A clock so wrong that the head node's certificate looks expired is set
//     from the time of the boot file plus the uptime, or by asking the head node
//     over a connection that is trusted for that one question (see package
//     identity).
//   - Nothing is polled faster than the sync. Pool health is read from /proc at
//     each sync; commands run only when something changed, and every ten minutes.
package agent
