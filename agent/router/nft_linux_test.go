package router

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// counter is an object of nf_tables as the kernel sends it.
func counter(table string, kind uint32, name string, packets uint64) []byte {
	data := nl.NewRtAttr(unix.NFTA_OBJ_DATA|unix.NLA_F_NESTED, nil)
	data.AddRtAttr(unix.NFTA_COUNTER_BYTES, nl.BEUint64Attr(84*packets))
	data.AddRtAttr(unix.NFTA_COUNTER_PACKETS, nl.BEUint64Attr(packets))
	return slices.Concat([]byte{unix.NFPROTO_INET, 0, 0, 0},
		nl.NewRtAttr(unix.NFTA_OBJ_TABLE, nl.ZeroTerminated(table)).Serialize(),
		nl.NewRtAttr(unix.NFTA_OBJ_NAME, nl.ZeroTerminated(name)).Serialize(),
		nl.NewRtAttr(unix.NFTA_OBJ_TYPE, nl.BEUint32Attr(kind)).Serialize(),
		data.Serialize())
}

func TestParseCounter(t *testing.T) {
	for _, c := range []struct {
		object  []byte
		name    string
		packets uint64
	}{
		{counter(table, 1, "to_private", 3), "to_private", 3},
		{counter(table, 2, "quota", 3), "", 0},
		{counter("other", 1, "to_private", 3), "", 0},
	} {
		if name, packets, err := parseCounter(c.object); name != c.name || packets != c.packets || err != nil {
			t.Errorf("%q %d, %v; want %q %d", name, packets, err, c.name, c.packets)
		}
	}
	if _, _, err := parseCounter(nil); err == nil {
		t.Error("nothing is taken for an object")
	}
}

func FuzzParseCounter(f *testing.F) {
	f.Add(counter(table, 1, "to_private", 3))
	f.Add([]byte{1, 0, 0, 0, 3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if name, packets, err := parseCounter(b); (err != nil || name == "") && packets > 0 {
			t.Errorf("%q %d, %v", name, packets, err)
		}
	})
}
