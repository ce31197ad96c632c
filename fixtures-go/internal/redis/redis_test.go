package redis

import (
	"bufio"
	"net"
	"strings"
	"testing"
)

// serve answers a command with each of these texts, and returns what it was sent.
func serve(t *testing.T, answers ...string) (*Client, chan string) {
	t.Helper()
	ours, theirs := net.Pipe()
	sent := make(chan string, len(answers))
	go func() {
		defer theirs.Close()
		in := bufio.NewReader(theirs)
		for _, answer := range answers {
			buffer := make([]byte, 4096)
			n, err := in.Read(buffer)
			if err != nil {
				return
			}
			sent <- string(buffer[:n])
			theirs.Write([]byte(answer))
		}
	}()
	t.Cleanup(func() { ours.Close() })
	return &Client{conn: ours, in: bufio.NewReader(ours)}, sent
}

func TestDo(t *testing.T) {
	client, sent := serve(t, "+OK\r\n", "$5\r\na\r\nb!\r\n", "$-1\r\n", ":7\r\n", "-ERR no\r\n", "*1\r\n")
	for _, want := range []string{"OK", "a\r\nb!", "", "7"} {
		got, err := client.Do("SET", "key", "é")
		if err != nil || got != want {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
		if command := <-sent; command != "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$2\r\né\r\n" {
			t.Fatalf("%q", command)
		}
	}
	for _, want := range []string{"ERR no", "*1"} {
		if _, err := client.Do("X"); err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("%v; want %q", err, want)
		}
	}
}
