//go:build !linux

package firewall

import "context"

// system has no nf_tables.
type system struct{}

func (system) commit(context.Context, *transaction) error              { return ErrUnsupported }
func (system) whole(context.Context, *transaction) error               { return ErrUnsupported }
func (system) generation(context.Context) (uint32, error)              { return 0, ErrUnsupported }
func (system) read(context.Context, []chain, []set) (*contents, error) { return nil, ErrUnsupported }
func (system) separate(context.Context) (bool, error)                  { return false, ErrUnsupported }
func (system) counted(context.Context) (map[string]counted, error)     { return nil, ErrUnsupported }
