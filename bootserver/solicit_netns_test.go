//go:build netns || vm

package bootserver_test

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"
)

// solicitEnv makes the test binary a machine that solicits routers on the
// interface it names, in whatever namespace it was started.
const solicitEnv = "NEREID_TEST_SOLICIT"

// solicit asks for a router as iPXE does and prints the answer.
func solicit(ifname string) int {
	var conn *ndp.Conn
	var own netip.Addr
	for limit := time.Now().Add(10 * time.Second); ; {
		ifi, err := net.InterfaceByName(ifname)
		if err == nil {
			conn, own, err = ndp.Listen(ifi, ndp.LinkLocal)
		}
		if err == nil {
			break
		}
		if time.Now().After(limit) {
			fmt.Println("listen:", err)
			return 1
		}
		time.Sleep(100 * time.Millisecond) // until the address is no longer tentative
	}
	defer conn.Close()
	if err := conn.SetControlMessage(ipv6.FlagHopLimit, true); err != nil {
		fmt.Println("ask for hop limits:", err)
		return 1
	}
	for range 5 {
		if err := conn.WriteTo(&ndp.RouterSolicitation{}, nil, netip.MustParseAddr("ff02::2")); err != nil {
			fmt.Println("solicit:", err)
			return 1
		}
		for limit := time.Now().Add(time.Second); time.Now().Before(limit); {
			if err := conn.SetReadDeadline(limit); err != nil {
				fmt.Println("deadline:", err)
				return 1
			}
			m, cm, from, err := conn.ReadFrom()
			if err != nil {
				break
			}
			if ra, ok := m.(*ndp.RouterAdvertisement); ok && from.WithZone("") != own.WithZone("") {
				fmt.Printf("lifetime %s managed %v other %v options %d hop limit %d\n", ra.RouterLifetime,
					ra.ManagedConfiguration, ra.OtherConfiguration, len(ra.Options), cm.HopLimit)
				return 0
			}
		}
	}
	fmt.Println("no answer")
	return 1
}
