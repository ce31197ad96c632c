// Package postgres speaks as much of PostgreSQL's protocol, version 3, as a small client needs: the start of a session
// that needs no password, and simple queries.
package postgres

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// longest is the most bytes of a message that the client takes.
const longest = 1 << 20

// Client is a session. One goroutine may use it at a time.
type Client struct {
	conn net.Conn
	in   *bufio.Reader
}

// Dial begins a session of a user with a database at HOST:PORT, or at a unix socket if the address has a slash.
func Dial(address, user, database string) (*Client, error) {
	network := "tcp"
	if strings.Contains(address, "/") {
		network = "unix"
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	client := &Client{conn: conn, in: bufio.NewReader(conn)}
	if err := client.start(user, database); err != nil {
		conn.Close()
		return nil, err
	}
	return client, nil
}

func (c *Client) start(user, database string) error {
	const version3 = 3 << 16
	body := binary.BigEndian.AppendUint32(nil, version3)
	for _, text := range []string{"user", user, "database", database, ""} {
		body = append(append(body, text...), 0)
	}
	if _, err := c.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)); err != nil {
		return err
	}
	_, err := c.untilReady()
	return err
}

// Close ends the session.
func (c *Client) Close() error {
	c.conn.Write([]byte{'X', 0, 0, 0, 4})
	return c.conn.Close()
}

// Query runs statements and returns the first column of all rows. It knows no parameters: Quote what is not constant.
func (c *Client) Query(statements string) ([]string, error) {
	message := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(statements)+5))
	if _, err := c.conn.Write(append(append(message, statements...), 0)); err != nil {
		return nil, err
	}
	return c.untilReady()
}

// Quote makes a literal of a text.
func Quote(text string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(text, "\x00", ""), "'", "''") + "'"
}

// untilReady reads until the server waits for the next query.
func (c *Client) untilReady() ([]string, error) {
	var rows []string
	var failure error
	for {
		kind, body, err := c.message()
		if err != nil {
			return nil, errors.Join(failure, err)
		}
		switch kind {
		case 'Z':
			return rows, failure
		case 'R':
			if len(body) < 4 || binary.BigEndian.Uint32(body) != 0 {
				return nil, errors.New("postgres: the server wants a password")
			}
		case 'D':
			column, err := first(body)
			if err != nil {
				return nil, err
			}
			rows = append(rows, column)
		case 'E':
			failure = errors.New("postgres: " + field(body, 'M'))
		}
	}
}

func (c *Client) message() (byte, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length < 4 || length > longest {
		return 0, nil, fmt.Errorf("postgres: a message of %d bytes", length)
	}
	body := make([]byte, length-4)
	_, err := io.ReadFull(c.in, body)
	return head[0], body, err
}

// first is the first column of a row; "" for NULL.
func first(row []byte) (string, error) {
	if len(row) < 6 {
		return "", nil
	}
	length := int32(binary.BigEndian.Uint32(row[2:]))
	if length < 0 {
		return "", nil
	}
	if int(length) > len(row)-6 {
		return "", errors.New("postgres: a row that is cut off")
	}
	return string(row[6 : 6+length]), nil
}

// field is the field of a server's error with this code.
func field(body []byte, code byte) string {
	for _, field := range strings.Split(string(body), "\x00") {
		if field != "" && field[0] == code {
			return field[1:]
		}
	}
	return "an error without a message"
}
