package agent

import "nereid/api"

// mailbox holds the newest spec until the reconciler takes it. There is one
// writer and one reader.
type mailbox chan api.Spec

func newMailbox() mailbox { return make(mailbox, 1) }

// put replaces what has not been taken yet, and never blocks.
func (m mailbox) put(s api.Spec) {
	select {
	case <-m:
	default:
	}
	m <- s
}
