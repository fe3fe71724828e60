package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a NETLINK_ROUTE socket. It is used instead of the library's where many
// messages go at once, and where attributes are needed that it does not read.
type conn struct {
	file *os.File
	raw  syscall.RawConn

	mu    sync.Mutex // one exchange at a time
	seq   uint32
	dirty bool // the last exchange was not complete
	buf   []byte
}

// errLost says that the kernel dropped messages to us.
var errLost = errors.New("messages from the kernel were lost")

// receiveBuffer is enough for an error about each message of a batch, with the
// kernel's overhead for each (see batch), and for a burst of events.
const receiveBuffer = 8 << 20

// newConn makes a socket in the thread's network namespace.
func newConn(groups ...int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	if err == nil {
		// Errors come without the message they are about, and with a sentence.
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	}
	if err == nil { // before the groups, as it sets them
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	for _, g := range groups {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g)
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "netlink")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &conn{file: f, raw: raw, buf: make([]byte, 1<<20)}, nil
}

func (c *conn) Close() error { return c.file.Close() }

// receive reads one datagram of the kernel. The slice is good until the next call.
// It has no context: what is asked for is answered at once, and must be read to its
// end before anything else can be asked.
func (c *conn) receive() ([]byte, error) {
	var n int
	var from unix.Sockaddr
	var err error
	for {
		rerr := c.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), c.buf, 0)
			return err != unix.EAGAIN && err != unix.EINTR
		})
		switch {
		case rerr != nil:
			return nil, fmt.Errorf("receive: %w", rerr)
		case err == unix.ENOBUFS:
			return nil, errLost
		case err != nil:
			return nil, os.NewSyscallError("recvfrom", err)
		}
		if k, ok := from.(*unix.SockaddrNetlink); ok && k.Pid == 0 {
			return c.buf[:n], nil
		}
	}
}

// answerLimit is a limit for what the kernel does at once.
const answerLimit = 30 * time.Second

// begin prepares an exchange: what is left of one that failed is read away. A
// socket that lost messages loses more, without a word, until it is empty
// (net/netlink/af_netlink.c, NETLINK_S_CONGESTED).
func (c *conn) begin() error {
	if c.dirty {
		var rest error
		err := c.raw.Read(func(fd uintptr) bool {
			for rest == nil || rest == unix.ENOBUFS || rest == unix.EINTR {
				_, _, rest = unix.Recvfrom(int(fd), c.buf, 0)
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	c.dirty = true // until the exchange is complete
	return c.file.SetReadDeadline(time.Now().Add(answerLimit))
}

func (c *conn) send(b []byte) error {
	var err error
	werr := c.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if werr != nil {
		return werr
	}
	return os.NewSyscallError("sendto", err)
}

// dump asks for a dump and calls each for its messages.
func (c *conn) dump(ctx context.Context, kind uint16, body []byte, reset func(), each func(kind uint16, body []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for range 8 {
		if err := c.begin(); err != nil {
			return err
		}
		reset()
		c.seq++
		b := beginMessage(nil, kind, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, c.seq)
		b = append(b, body...)
		endMessage(b, 0)
		if err := c.send(b); err != nil {
			return err
		}
		whole, err := c.readDump(each)
		if err != nil {
			return err
		}
		if whole {
			return nil
		}
	}
	return errors.New("the kernel's tables changed during each of 8 dumps")
}

// readDump reads a dump to its end; not whole when something changed meanwhile.
func (c *conn) readDump(each func(uint16, []byte)) (whole bool, err error) {
	whole = true
	for {
		b, err := c.receive()
		if err != nil {
			return false, err
		}
		done := false
		err = messages(b, func(h header, body []byte) error {
			switch {
			case h.seq != c.seq:
			case h.kind == unix.NLMSG_DONE:
				done, c.dirty = true, false
			case h.kind == unix.NLMSG_ERROR:
				done, c.dirty = true, false
				return answer(h, body)
			default:
				whole = whole && h.flags&unix.NLM_F_DUMP_INTR == 0
				each(h.kind, body)
			}
			return nil
		})
		if err != nil || done {
			return whole, err
		}
	}
}

// request sends one message and waits for its acknowledgement. What the kernel answers
// before that goes to each.
func (c *conn) request(ctx context.Context, kind, flags uint16, body []byte, each func(kind uint16, body []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	c.seq++
	b := beginMessage(nil, kind, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags, c.seq)
	b = append(b, body...)
	endMessage(b, 0)
	if err := c.send(b); err != nil {
		return err
	}
	for {
		b, err := c.receive()
		if err != nil {
			return err
		}
		done := false
		err = messages(b, func(h header, body []byte) error {
			switch {
			case h.seq != c.seq:
			case h.kind == unix.NLMSG_ERROR:
				done, c.dirty = true, false
				return answer(h, body)
			case each != nil:
				each(h.kind, body)
			}
			return nil
		})
		if err != nil || done {
			return err
		}
	}
}

// answer is the error that an NLMSG_ERROR carries; nil when it is an
// acknowledgement.
func answer(h header, body []byte) error {
	if len(body) < 4 {
		return errors.New("short answer of the kernel")
	}
	errno := -int32(binary.NativeEndian.Uint32(body))
	if errno == 0 {
		return nil
	}
	err := error(unix.Errno(errno))
	const skip = 4 + unix.SizeofNlMsghdr // the message itself is left out (NETLINK_CAP_ACK)
	if h.flags&unix.NLM_F_ACK_TLVS != 0 && len(body) > skip {
		attributes(body[skip:], func(kind uint16, value []byte) {
			if kind == unix.NLMSGERR_ATTR_MSG {
				err = fmt.Errorf("%s (%w)", cString(value), unix.Errno(errno))
			}
		})
	}
	return err
}
