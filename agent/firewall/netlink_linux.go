package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// attributes are netlink attributes (struct nlattr). Numbers in those of nf_tables
// are in network byte order.
type attributes []byte

func (a attributes) raw(kind uint16, data ...byte) attributes {
	a = binary.NativeEndian.AppendUint16(a, uint16(unix.SizeofNlAttr+len(data)))
	a = binary.NativeEndian.AppendUint16(a, kind)
	a = append(a, data...)
	for len(a)%unix.NLA_ALIGNTO != 0 {
		a = append(a, 0)
	}
	return a
}

func (a attributes) text(kind uint16, s string) attributes {
	return a.raw(kind, append([]byte(s), 0)...)
}

func (a attributes) u32(kind uint16, n uint32) attributes {
	return a.raw(kind, binary.BigEndian.AppendUint32(nil, n)...)
}

func (a attributes) u64(kind uint16, n uint64) attributes {
	return a.raw(kind, binary.BigEndian.AppendUint64(nil, n)...)
}

// nest adds the attributes that fill adds as one.
func (a attributes) nest(kind uint16, fill func(attributes) attributes) attributes {
	start := len(a)
	a = binary.NativeEndian.AppendUint16(a, 0)
	a = binary.NativeEndian.AppendUint16(a, kind|unix.NLA_F_NESTED)
	a = fill(a)
	binary.NativeEndian.PutUint16(a[start:], uint16(len(a)-start))
	return a
}

// attribute is one that was received.
type attribute struct {
	kind uint16
	data []byte
}

// parseAttributes splits b; what does not fit ends it.
func parseAttributes(b []byte) []attribute {
	var out []attribute
	for len(b) >= unix.SizeofNlAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			break
		}
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		out = append(out, attribute{kind, b[unix.SizeofNlAttr:n]})
		b = b[min(len(b), (n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return out
}

func (a attribute) text() string {
	b := a.data
	if n := len(b); n > 0 && b[n-1] == 0 {
		b = b[:n-1]
	}
	return string(b)
}

// message is a request to nf_tables. what names it in errors.
type message struct {
	kind  uint16 // NFT_MSG_...
	flags uint16
	body  []byte // struct nfgenmsg and attributes
	what  string

	device string // that it needs, if it does
}

// nfgenmsg is the header that begins each message's body (struct nfgenmsg).
func nfgenmsg(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// socket speaks to nf_tables of the network namespace of the thread that opened it.
type socket struct{ fd int }

// The kernel answers within the call that asks, so that waiting is for a kernel
// that does not answer at all.
const answerTimeout = 10 * time.Second

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	s := &socket{fd}
	// A whole ruleset is one message to the kernel, up to about 100 MB.
	for opt, size := range map[int]int{unix.SO_SNDBUFFORCE: 1 << 28, unix.SO_RCVBUFFORCE: 1 << 22} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, size); err != nil {
			s.close()
			return nil, fmt.Errorf("size the netlink socket's buffers: %w", err)
		}
	}
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		s.close()
		return nil, fmt.Errorf("set the netlink socket's timeout: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		s.close()
		return nil, fmt.Errorf("bind a netlink socket: %w", err)
	}
	return s, nil
}

func (s *socket) close() { unix.Close(s.fd) }

func appendMessage(b []byte, kind, flags uint16, seq uint32, body []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, body...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

func (s *socket) send(b []byte) error {
	if err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to nf_tables: %w", err)
	}
	return nil
}

// receive reads messages until each says that it was the last.
func (s *socket) receive(each func(kind uint16, seq uint32, flags uint16, body []byte) (last bool, err error)) error {
	b := make([]byte, 1<<17)
	for {
		n, _, err := unix.Recvfrom(s.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("receive from nf_tables: %w", os.ErrDeadlineExceeded)
		}
		if err != nil {
			return fmt.Errorf("receive from nf_tables: %w", err)
		}
		for m := b[:n]; len(m) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(m))
			if size < unix.SizeofNlMsghdr || size > len(m) {
				return errors.New("receive from nf_tables: a message of impossible size")
			}
			last, err := each(binary.NativeEndian.Uint16(m[4:]), binary.NativeEndian.Uint32(m[8:]), binary.NativeEndian.Uint16(m[6:]), m[unix.SizeofNlMsghdr:size])
			if err != nil || last {
				return err
			}
			m = m[min(len(m), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		}
	}
}

// errnoOf reads NLMSG_ERROR; 0 acknowledges.
func errnoOf(body []byte) error {
	if len(body) < 4 {
		return errors.New("an error message without an error")
	}
	if e := int32(binary.NativeEndian.Uint32(body)); e != 0 {
		return unix.Errno(-e)
	}
	return nil
}

// batch sends messages as one transaction. Only the last is acknowledged; errors
// come for each message that has one, and the first is returned.
func (s *socket) batch(ctx context.Context, messages []message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(messages) == 0 {
		return nil
	}
	size := 0
	for _, m := range messages {
		size += unix.SizeofNlMsghdr + len(m.body) + unix.NLMSG_ALIGNTO
	}
	b := make([]byte, 0, size+64)
	edge := nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	b = appendMessage(b, unix.NFNL_MSG_BATCH_BEGIN, 0, 0, edge)
	for i, m := range messages {
		flags := m.flags
		if i == len(messages)-1 {
			flags |= unix.NLM_F_ACK
		}
		b = appendMessage(b, unix.NFNL_SUBSYS_NFTABLES<<8|m.kind, flags, uint32(i+1), m.body)
	}
	b = appendMessage(b, unix.NFNL_MSG_BATCH_END, 0, uint32(len(messages)+1), edge)
	if err := s.send(b); err != nil {
		return err
	}
	return s.receive(func(kind uint16, seq uint32, _ uint16, body []byte) (bool, error) {
		if kind != unix.NLMSG_ERROR {
			return false, nil
		}
		err := errnoOf(body)
		switch i := int(seq) - 1; {
		case err == nil:
			return true, nil
		case i >= 0 && i < len(messages):
			return true, &refusal{messages[i], err}
		default:
			return true, fmt.Errorf("commit: %w", err)
		}
	})
}

// refusal is a message of a batch that the kernel did not take.
type refusal struct {
	message
	err error
}

func (r *refusal) Error() string { return r.what + ": " + r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// dump asks for a list, or for one thing with flags 0, and calls each with what
// follows struct nfgenmsg in each answer. Of what is not there, there is nothing.
func (s *socket) dump(ctx context.Context, m message, each func(family byte, attrs []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.send(appendMessage(nil, unix.NFNL_SUBSYS_NFTABLES<<8|m.kind, m.flags, 1, m.body)); err != nil {
		return fmt.Errorf("%s: %w", m.what, err)
	}
	err := s.receive(func(kind uint16, _ uint32, flags uint16, body []byte) (bool, error) {
		if flags&unix.NLM_F_DUMP_INTR != 0 {
			return true, unix.EINTR // changed while it was listed
		}
		switch kind {
		case unix.NLMSG_ERROR:
			return true, errnoOf(body)
		case unix.NLMSG_DONE:
			return true, nil
		}
		if len(body) < 4 {
			return true, errors.New("an answer that is too short")
		}
		return m.flags&unix.NLM_F_DUMP == 0, each(body[0], body[4:])
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: %w", m.what, err)
	}
	return nil
}
