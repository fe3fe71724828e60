package store

import "context"

// BoltOptions are what can be chosen for OpenBolt; the zero value is right.
type BoltOptions struct{}

// OpenBolt opens or makes the bbolt file at path.
func OpenBolt(ctx context.Context, path string, o BoltOptions) (*Bolt, error) { panic("x") }

// Bolt is a Store in one bbolt file.
type Bolt struct{ Store }
