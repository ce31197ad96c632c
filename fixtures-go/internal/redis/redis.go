// Package redis speaks as much RESP, the protocol of Redis, as a small client needs.
package redis

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// longest is the most bytes of an answer that the client takes.
const longest = 1 << 20

// Client is a connection to a server. One goroutine may use it at a time.
type Client struct {
	conn net.Conn
	in   *bufio.Reader
}

// Dial connects to HOST:PORT, or to a unix socket if the address has a slash.
func Dial(address string) (*Client, error) {
	network := "tcp"
	if strings.Contains(address, "/") {
		network = "unix"
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, in: bufio.NewReader(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Do sends a command and returns its answer. A missing value is "".
func (c *Client) Do(words ...string) (string, error) {
	var command strings.Builder
	fmt.Fprintf(&command, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&command, "$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := io.WriteString(c.conn, command.String()); err != nil {
		return "", err
	}
	return c.answer()
}

func (c *Client) answer() (string, error) {
	line, err := c.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", errors.New("redis: an empty answer")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", errors.New("redis: " + rest)
	case '$':
		length, err := strconv.Atoi(rest)
		if err != nil || length > longest {
			return "", fmt.Errorf("redis: a length of %q", rest)
		}
		if length < 0 {
			return "", nil
		}
		text := make([]byte, length+2)
		if _, err := io.ReadFull(c.in, text); err != nil {
			return "", err
		}
		return string(text[:length]), nil
	}
	return "", fmt.Errorf("redis: an answer %q", line)
}
