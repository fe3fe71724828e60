package platform

import (
	"slices"
	"strings"
	"testing"
)

const depText = `kernel/drivers/net/mdio/mdio_devres.ko: kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/phy/libphy.ko:
kernel/drivers/net/phy/realtek.ko: kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/ethernet/realtek/r8169.ko: kernel/drivers/net/mdio/mdio_devres.ko kernel/drivers/net/phy/libphy.ko
kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko:
kernel/drivers/net/ethernet/mellanox/mlxsw/mlxsw_core.ko:
kernel/drivers/net/wireless/ath.ko:
kernel/fs/overlayfs/overlay.ko:
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
`

func TestClosureTakesWhatIsNeededAndNoMore(t *testing.T) {
	x, err := parseDeps(strings.NewReader(depText))
	if err != nil {
		t.Fatal(err)
	}
	pre, err := parseSoftdeps(strings.NewReader("# comment\nsoftdep r8169 pre: realtek post: ath\nsoftdep absent pre: realtek\nsoftdep e1000e pre: not-there\n"))
	if err != nil {
		t.Fatal(err)
	}
	x.harden(pre)
	got, err := x.closure(inInitrd)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range got {
		names = append(names, moduleName(p))
	}
	want := []string{"mdio_devres", "libphy", "realtek", "r8169", "e1000e", "overlay", "virtio_net", "net_failover", "failover"}
	if !slices.Equal(names, want) {
		t.Errorf("closure\n got %v\nwant %v", names, want)
	}
	dep := string(x.dep(got))
	if !strings.Contains(dep, "r8169.ko: kernel/drivers/net/mdio/mdio_devres.ko kernel/drivers/net/phy/libphy.ko kernel/drivers/net/phy/realtek.ko\n") {
		t.Errorf("modules.dep does not make realtek a dependency of r8169:\n%s", dep)
	}
	if strings.Contains(dep, "ath") {
		t.Errorf("modules.dep names a module that is not there:\n%s", dep)
	}
}

func TestClosureRefusesAHoleInTheIndex(t *testing.T) {
	x, err := parseDeps(strings.NewReader("kernel/fs/overlayfs/overlay.ko: kernel/lib/gone.ko\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.closure(inInitrd); err == nil || !strings.Contains(err.Error(), "gone.ko") {
		t.Errorf("error %v; want one that names gone.ko", err)
	}
}

func TestAliasesOfChosenModulesOnly(t *testing.T) {
	in := "# Aliases\nalias pci:v00008086d*sv*sd*bc*sc*i* e1000e\nalias pci:v1 i40e\nalias fs-overlay overlay\nalias virtio:d00000001v* virtio_net\n"
	got, err := reduceAliases(strings.NewReader(in), []string{"kernel/a/e1000e.ko", "kernel/b/virtio-net.ko"})
	if err != nil {
		t.Fatal(err)
	}
	want := "alias pci:v00008086d*sv*sd*bc*sc*i* e1000e\nalias virtio:d00000001v* virtio_net\n"
	if string(got) != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestModuleName(t *testing.T) {
	for in, want := range map[string]string{
		"kernel/drivers/net/virtio-net.ko":   "virtio_net",
		"kernel/a/b/8139too.ko.xz":           "8139too",
		"snd-hda-intel":                      "snd_hda_intel",
		"kernel/drivers/net/phy/bcm-phy.ko3": "bcm_phy",
	} {
		if got := moduleName(in); got != want {
			t.Errorf("moduleName(%q) = %q, want %q", in, got, want)
		}
	}
}
