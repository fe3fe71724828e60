package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// separate implements kernel. The settings are those of the thread's network
// namespace (br_netfilter_hooks.c); without the module there are none.
func (system) separate(context.Context) (changed bool, err error) {
	for _, tables := range []string{"iptables", "ip6tables", "arptables"} {
		path := "/proc/sys/net/bridge/bridge-nf-call-" + tables
		is, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return changed, nil
		}
		if err != nil {
			return changed, fmt.Errorf("read a setting of br_netfilter: %w", err)
		}
		if bytes.Equal(bytes.TrimSpace(is), []byte("0")) {
			continue
		}
		if err := os.WriteFile(path, []byte("0"), 0); err != nil {
			return changed, fmt.Errorf("set br_netfilter off: %w", err)
		}
		changed = true
	}
	return changed, nil
}
