// Command attempts is what TestVMBarrier runs as root in a zone. It tries what must not
// work there, and prints a line for each attempt:
//
//	NAME<tab>refused<tab>WHY
//	NAME<tab>DONE<tab>WHAT
//
//	attempts try DATASET...             everything that the zone alone can tell of;
//	                                    DATASETs are the server's, none of them its own
//	attempts send IFACE MAC IP MAC IP   frames to the first of two other zones, that
//	                                    pretend to be of the second
//	attempts end IFACE MAC IP           the frame that ends listen
//	attempts listen IFACE               names the frames of send that come in
//	attempts hog MIB                    memory, until it is killed
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	args := os.Args[1:]
	// Elsewhere some of it would be done: sysctls written, and the clock set.
	if _, err := os.Stat("/run/nereid/zone.json"); err != nil {
		exit(fmt.Errorf("attempts: this runs in a zone and nowhere else: %w", err))
	}
	switch {
	case len(args) > 0 && args[0] == "try":
		tryAll(args[1:])
	case len(args) > 0 && args[0] == "bare":
		report(bare(), "with /proc and /sys bare: ")
	case len(args) > 0 && args[0] == "nested":
		report(nested(args[1:]), "in a nested user namespace: ")
	case len(args) == 6 && args[0] == "send":
		exit(send(args[1], args[2:]))
	case len(args) == 4 && args[0] == "end":
		exit(sendEnd(args[1], args[2], args[3]))
	case len(args) == 2 && args[0] == "listen":
		exit(listen(args[1]))
	case len(args) == 2 && args[0] == "hog":
		mib, err := strconv.Atoi(args[1])
		exit(err)
		hog(mib)
	default:
		exit(fmt.Errorf("attempts: what is %q?", args))
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// attempt is one thing to try. It gives an error when it is refused.
type attempt struct {
	name string
	try  func() error
}

// patience is how long all attempts may take: one that hangs is named.
const patience = 100 * time.Second

// report makes attempts and prints what came of each.
func report(all []attempt, of string) {
	now := ""
	defer time.AfterFunc(patience, func() { exit(fmt.Errorf("%q hangs", now)) }).Stop()
	for _, a := range all {
		now = a.name
		if err := a.try(); err != nil {
			fmt.Printf("%s%s\trefused\t%v\n", of, a.name, err)
		} else {
			fmt.Printf("%s%s\tDONE\t\n", of, a.name)
		}
	}
}

// hog takes memory and uses it.
func hog(mib int) {
	var all [][]byte
	for range mib {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	fmt.Println("has", len(all), "MiB")
}
