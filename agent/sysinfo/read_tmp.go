package sysinfo

import (
	"context"

	"nereid/api"
)

// Read reads the hardware. What cannot be read is left empty; only a missing
// /sys or an ended context is an error.
func (r *Reader) Read(ctx context.Context) (api.Sysinfo, error) { return api.Sysinfo{}, ctx.Err() }
