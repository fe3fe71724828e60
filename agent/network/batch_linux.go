package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// batch is how many messages go to the kernel at once. The kernel does them in
// order within sendmsg, goes on after one that fails, and answers only those and
// the last, which alone asks for it. So many errors at once fit receiveBuffer.
const batch = 1024

// Change implements System.
func (k *Kernel) Change(ctx context.Context, changes []Change) error {
	var failed []error
	for len(changes) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(batch, len(changes))
		failed = append(failed, k.conn.change(changes[:n])...)
		changes = changes[n:]
	}
	if len(failed) > 1 {
		return fmt.Errorf("%w (and %d more)", failed[0], len(failed)-1)
	}
	return errors.Join(failed...)
}

// change does up to batch changes. When the kernel's answers were lost, it does
// them again in halves, as every change can be done twice.
func (c *conn) change(changes []Change) []error {
	failed, err := c.exchange(changes)
	if err == nil {
		return failed
	}
	if !errors.Is(err, errLost) || len(changes) == 1 {
		return []error{fmt.Errorf("change %d entries: %w", len(changes), err)}
	}
	half := len(changes) / 2
	return append(c.change(changes[:half]), c.change(changes[half:])...)
}

func (c *conn) exchange(changes []Change) (failed []error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.seq + 1
	buf := make([]byte, 0, len(changes)*80)
	var of []int // index of the change of each message
	last := 0
	for i, ch := range changes {
		for _, flags := range ch.halves() {
			c.seq++
			last = len(buf)
			buf = ch.append(buf, flags, c.seq)
			of = append(of, i)
		}
	}
	if len(of) == 0 {
		return nil, nil
	}
	flags := binary.NativeEndian.Uint16(buf[last+6:])
	binary.NativeEndian.PutUint16(buf[last+6:], flags|unix.NLM_F_ACK)
	if err := c.begin(); err != nil {
		return nil, err
	}
	if err := c.send(buf); err != nil {
		return nil, err
	}
	for done := false; !done; {
		b, err := c.receive()
		if err != nil {
			return nil, err
		}
		err = messages(b, func(h header, body []byte) error {
			at := h.seq - first
			if h.kind != unix.NLMSG_ERROR || at >= uint32(len(of)) {
				return nil // of an exchange whose answers were lost
			}
			done = done || h.seq == c.seq
			ch := changes[of[at]]
			if err := answer(h, body); err != nil && !(ch.Delete && notThere(err)) {
				failed = append(failed, fmt.Errorf("%s: %w", ch, err))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	c.dirty = false
	return failed, nil
}

// halves are the flags of the messages that a change takes. An entry of a VXLAN
// device is set in the bridge and the device by one; it is deleted by two, as the
// kernel does not come to the second half when the first is not there.
func (ch Change) halves() []uint8 {
	switch {
	case ch.IP.IsValid():
		return []uint8{0}
	case !ch.VXLAN:
		return []uint8{unix.NTF_MASTER}
	case !ch.Delete:
		return []uint8{unix.NTF_MASTER | unix.NTF_SELF}
	case ch.SelfOnly:
		return []uint8{unix.NTF_SELF}
	}
	return []uint8{unix.NTF_MASTER, unix.NTF_SELF}
}

// append appends one message: header, struct ndmsg, attributes.
func (ch Change) append(b []byte, flags uint8, seq uint32) []byte {
	start := len(b)
	kind, how := uint16(unix.RTM_NEWNEIGH), uint16(unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if ch.Delete {
		kind, how = unix.RTM_DELNEIGH, unix.NLM_F_REQUEST
	}
	// A static entry of a bridge (NUD_PERMANENT would mean one of its own
	// addresses), which does not age in a VXLAN device either.
	family, state := uint8(unix.AF_BRIDGE), uint16(unix.NUD_NOARP|unix.NUD_REACHABLE)
	if ch.IP.IsValid() {
		family, state = unix.AF_INET6, unix.NUD_PERMANENT
		if ch.IP.Is4() {
			family = unix.AF_INET
		}
	}
	b = beginMessage(b, kind, how, seq)
	b = append(b, family, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(ch.Dev))
	b = binary.NativeEndian.AppendUint16(b, state)
	b = append(b, flags, 0)
	if ch.IP.IsValid() {
		b = addIP(b, unix.NDA_DST, ch.IP)
	}
	if !ch.IP.IsValid() || !ch.Delete {
		b = addAttribute(b, unix.NDA_LLADDR, ch.MAC[:])
	}
	if ch.IP.IsValid() && !ch.Delete {
		b = addAttribute(b, ndaProtocol, []byte{Protocol})
	}
	if ch.VXLAN && !ch.Delete {
		b = addIP(b, unix.NDA_DST, ch.Underlay)
	}
	endMessage(b, start)
	return b
}
