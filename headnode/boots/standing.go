package boots

import (
	"fmt"

	"nereid/api"
)

// Standing says in which leg a boot stands that has not reached its platform's first
// sync, and what it waits for: one sentence.
func Standing(b api.Boot) string {
	last := api.BootEvent{}
	for _, e := range b.Events {
		if e.Stage != api.StageRefused && e.Stage != api.StageFailed {
			last = e
		}
	}
	said := ""
	if n := len(b.Events); n > 0 {
		switch e := b.Events[n-1]; e.Stage {
		case api.StageRefused:
			said = "refused: " + e.Detail
		case api.StageFailed:
			said = "it says: " + e.Detail
		}
	}
	if last.Stage == "" && said == "" {
		return "nothing is known of it but its address on the wire"
	}
	leg, why := leg(b, last)
	if said != "" {
		why = said
	}
	return leg + ": " + why
}

// leg names the leg of the last event, and what was expected next.
func leg(b api.Boot, last api.BootEvent) (leg, why string) {
	address := b.Address
	if address == "" {
		address = "an address"
	}
	const network = "look for a wrong VLAN, a switch port that is not forwarding yet, and another DHCP server"
	switch last.Stage {
	case api.StageDiscover:
		return "firmware", "DISCOVER answered " + times(last.Count) + ", no REQUEST; " + network
	case api.StageAck:
		return "firmware", "has " + address + " and has read no boot file; look whether TFTP (UDP 69) reaches it"
	case api.StageTFTP:
		return "firmware", "iPXE was sent (" + times(last.Count) + ") and has not asked for an address yet"
	case api.StageIPXEDiscover:
		return "iPXE", "DISCOVER answered " + times(last.Count) + ", no REQUEST; " + network
	case api.StageIPXEAck:
		return "iPXE", "has " + address + " and has not asked for its script; look whether HTTP (TCP 80) reaches it"
	case api.StageScript:
		return "iPXE", "has its script and has not loaded the kernel"
	case api.StageKernel, api.StageInitrd, api.StageConfig:
		return "kernel", "sent as far as " + string(last.Stage) + "; its stub has not reported yet"
	case api.StageStub, api.StageLayer, api.StageRoot:
		return "stub", "runs, and loads the root filesystem"
	case api.StageSwitchRoot:
		return "platform", "runs; its agent has not enrolled yet"
	case api.StageEnrol:
		return "agent", last.Detail
	}
	return "firmware", "asked for an address"
}

func times(n int) string {
	if n <= 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
