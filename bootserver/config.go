package bootserver

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/u-root/u-root/pkg/cpio"

	"nereid/api"
)

// configArchive packs a boot's configuration as the cpio the kernel unpacks into
// its initramfs: nereid/boot.json, readable by root only. Its length is a
// multiple of 512 bytes.
func configArchive(c api.BootConfig) ([]byte, error) {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("pack configuration: %w", err)
	}
	var buf bytes.Buffer
	w := cpio.Newc.Writer(&buf)
	for _, r := range []cpio.Record{
		cpio.Directory("nereid", 0o700),
		cpio.StaticFile("nereid/boot.json", string(append(text, '\n')), 0o600),
	} {
		if err := w.WriteRecord(r); err != nil {
			return nil, fmt.Errorf("pack configuration: %w", err)
		}
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, fmt.Errorf("pack configuration: %w", err)
	}
	if n := buf.Len() % 512; n != 0 {
		buf.Write(make([]byte, 512-n))
	}
	return buf.Bytes(), nil
}
