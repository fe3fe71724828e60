// Package events keeps what changed lately, for those who watch.
//
// A Log holds the newest events in memory, each under a number. A reader says the id
// of the last event it has, and gets those behind it that its filter wants. So a
// reader that was cut off misses nothing, as long as its id is in the log. A reader
// whose id is not is told so once (Page.Missed), and reads again what it looks at.
//
// An id is EPOCH-NUMBER. The epoch is another one at each start of the head node:
// events are neither stored nor counted on disk, so two changes share no key because
// of them.
//
// Nobody is registered here. A reader that does not come back costs nothing, and who
// publishes waits for no reader.
package events
