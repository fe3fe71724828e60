package mdata

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
)

// Client asks for metadata. Its methods are for one goroutine.
type Client struct {
	w io.Writer
	r *bufio.Reader
}

// ErrNotFound says that there is no such key.
var ErrNotFound = errors.New("mdata: no such key")

// RefusedError is why a request was refused.
type RefusedError string

func (e RefusedError) Error() string { return string(e) }

// Dial agrees on version 2 over a connection.
func Dial(c io.ReadWriter) (*Client, error) {
	m := &Client{w: c, r: bufio.NewReader(c)}
	if _, err := io.WriteString(c, "NEGOTIATE V2\n"); err != nil {
		return nil, fmt.Errorf("agree on a version: %w", err)
	}
	line, err := m.r.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("agree on a version: %w", err)
	}
	if line != "V2_OK\n" {
		return nil, fmt.Errorf("agree on a version: the answer is %.80q", line)
	}
	return m, nil
}

func (c *Client) do(word string, data []byte) (string, error) {
	f := Frame{ID: fmt.Sprintf("%08x", rand.Uint32()), Word: word, Data: data}
	if _, err := c.w.Write(f.Append(nil)); err != nil {
		return "", fmt.Errorf("send %s: %w", word, err)
	}
	for {
		line, err := c.r.ReadBytes('\n')
		if err != nil {
			return "", fmt.Errorf("read the answer to %s: %w", word, err)
		}
		a, err := ParseFrame(line[:len(line)-1])
		if err != nil || a.ID != f.ID {
			continue // another's
		}
		switch a.Word {
		case Success:
			return string(a.Data), nil
		case NotFound:
			return "", ErrNotFound
		}
		return "", RefusedError(a.Data)
	}
}

// Get is the value of a key; ErrNotFound when it has none.
func (c *Client) Get(key string) (string, error) { return c.do(Get, []byte(key)) }

// Put sets a key.
func (c *Client) Put(key, value string) error {
	_, err := c.do(Put, putData(key, value))
	return err
}

// Delete removes a key, whether or not it is there.
func (c *Client) Delete(key string) error {
	_, err := c.do(Delete, []byte(key))
	return err
}

// Keys lists the keys that have values.
func (c *Client) Keys() ([]string, error) {
	text, err := c.do(Keys, nil)
	if text == "" || err != nil {
		return nil, err
	}
	return strings.Split(text, "\n"), nil
}
