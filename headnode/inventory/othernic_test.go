package inventory

import (
	"testing"

	"nereid/api"
	"nereid/headnode/store"
)

// TestPendingBootsFromItsOtherNIC: a machine that waits for approval and boots from
// another of its NICs, with another key since keys are in RAM then, stays one server
// that is pending, whatever its NICs are; and so it does when it goes back.
func TestPendingBootsFromItsOtherNIC(t *testing.T) {
	for name, nics := range map[string][2]api.NIC{
		"global":          {{MAC: macA}, {MAC: macX}},
		"local":           {{MAC: "52:54:00:00:00:01"}, {MAC: "52:54:00:00:00:02"}},
		"USB, then PCI":   {{MAC: "3c:ec:ef:00:00:2a", Bus: api.BusUSB}, {MAC: macA}},
		"PCI, then USB":   {{MAC: macA}, {MAC: "3c:ec:ef:00:00:2a", Bus: api.BusUSB}},
		"local, then USB": {{MAC: "be:3a:f2:b6:05:9f"}, {MAC: "3c:ec:ef:00:00:2a", Bus: api.BusUSB}},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStore(t)
			for i, boot := range []int{0, 1, 0} {
				out := enrolAs(t, st, Enrolment{BootID: "boot" + string(rune('1'+i)), BootMAC: nics[boot].MAC, Started: t0,
					Sysinfo: api.Sysinfo{UUID: uuidA, NICs: nics[:]}, Key: "key" + string(rune('1'+i))})
				if out.Refused != nil || out.Granted || out.Record.UUID != uuidA {
					t.Fatalf("boot %d: %+v", i+1, out)
				}
			}
			var all []Record
			update(t, st, func(tx store.Tx) (err error) { all, _, err = List(tx, "", 0); return err })
			if len(all) != 1 {
				t.Errorf("%d servers, want one", len(all))
			}
		})
	}
}

// TestOneUUIDWithOneNICInEachMachine: a NIC whose MAC is in every machine of a maker
// makes no two of them one, whichever they boot from.
func TestOneUUIDWithOneNICInEachMachine(t *testing.T) {
	bmc := api.NIC{MAC: "be:3a:f2:b6:05:9f", Bus: api.BusUSB}
	for _, boots := range [][2]string{{macA, macB}, {bmc.MAC, macB}, {macA, bmc.MAC}} {
		st := newStore(t)
		var uuids []string
		for i, own := range []string{macA, macB} {
			out := enrolAs(t, st, Enrolment{BootID: "boot" + own, BootMAC: boots[i], Started: t0,
				Sysinfo: api.Sysinfo{UUID: uuidA, NICs: []api.NIC{{MAC: own}, bmc}}, Key: "key" + own})
			uuids = append(uuids, out.Record.UUID)
		}
		if uuids[0] == uuids[1] {
			t.Errorf("machines that boot from %v are one server", boots)
		}
	}
}
