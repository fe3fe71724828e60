package zone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"nereid/agent/machine/mdata"
)

// Names of a zone's programs that ask for its metadata, and of its socket, in Inner.
const (
	mdataGet    = "mdata-get"
	mdataPut    = "mdata-put"
	mdataDelete = "mdata-delete"
	mdataList   = "mdata-list"
	socketName  = "metadata.sock"
)

var clients = []string{mdataGet, mdataPut, mdataDelete, mdataList}

// IsClient says whether Program is one of those when it is called by a name.
func IsClient(name string) bool {
	for _, c := range clients {
		if c == name {
			return true
		}
	}
	return false
}

// Exit statuses of the programs, which are those of Joyent's.
const (
	exitFound    = 0
	exitNotFound = 1
	exitError    = 2
	exitUsage    = 3
	exitAgain    = 10 // the server did not answer: try again
)

// askLimit is how long a program waits for an answer, and for who answers to be there.
const askLimit = 45 * time.Second

// usages are how the programs are called.
var usages = map[string]string{
	mdataGet: "KEY", mdataPut: "KEY [VALUE]   (without VALUE: standard input)", mdataDelete: "KEY", mdataList: "",
}

// Ask is one of the programs; dir has the zone's socket.
func Ask(ctx context.Context, dir, name string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fail := func(code int, format string, a ...any) int {
		fmt.Fprintf(stderr, name+": "+format+"\n", a...)
		return code
	}
	most := map[string]int{mdataGet: 1, mdataPut: 2, mdataDelete: 1}[name]
	least := min(most, 1)
	if len(args) < least || len(args) > most || least == 1 && (args[0] == "" || strings.HasPrefix(args[0], "-")) {
		return fail(exitUsage, "usage: %s %s", name, usages[name])
	}
	value := ""
	if name == mdataPut && len(args) == 1 {
		b, err := io.ReadAll(io.LimitReader(stdin, mdata.MaxLine))
		if err != nil {
			return fail(exitError, "read standard input: %v", err)
		}
		value = string(b)
	} else if name == mdataPut {
		value = args[1]
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	m, end, err := dialMetadata(ctx, dir)
	if err != nil {
		return fail(exitAgain, "%v", err)
	}
	defer end()
	out := ""
	switch name {
	case mdataGet:
		if out, err = m.Get(args[0]); err == nil && !strings.HasSuffix(out, "\n") {
			out += "\n"
		}
	case mdataPut:
		err = m.Put(args[0], value)
	case mdataDelete:
		err = m.Delete(args[0])
	case mdataList:
		var keys []string
		if keys, err = m.Keys(); len(keys) > 0 {
			out = strings.Join(keys, "\n") + "\n"
		}
	}
	var refused mdata.RefusedError
	switch {
	case errors.Is(err, mdata.ErrNotFound):
		return fail(exitNotFound, "there is no metadata %q", args[0])
	case errors.As(err, &refused):
		return fail(exitError, "%v", err)
	case err != nil:
		return fail(exitAgain, "%v", err)
	}
	if _, err := io.WriteString(stdout, out); err != nil {
		return fail(exitError, "%v", err)
	}
	return exitFound
}

// dialMetadata connects with who answers, which may come a moment later than the zone.
func dialMetadata(ctx context.Context, dir string) (*mdata.Client, func(), error) {
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, socketName))
		if err == nil {
			if until, ok := ctx.Deadline(); ok {
				err = c.SetDeadline(until)
			}
			var m *mdata.Client
			if err == nil {
				m, err = mdata.Dial(c)
			}
			if err == nil {
				return m, func() { c.Close() }, nil
			}
			c.Close()
		}
		if errors.Is(err, os.ErrPermission) {
			return nil, nil, fmt.Errorf("ask for metadata: it is root's alone: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("ask for metadata: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
