package postgres

import (
	"bufio"
	"encoding/binary"
	"net"
	"reflect"
	"strings"
	"testing"
)

func message(kind byte, body string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))) + body
}

// session is a client whose server answers with these texts.
func session(t *testing.T, answers ...string) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		buffer := make([]byte, 4096)
		for _, answer := range answers {
			if _, err := theirs.Read(buffer); err != nil {
				return
			}
			theirs.Write([]byte(answer))
		}
	}()
	t.Cleanup(func() { ours.Close() })
	return &Client{conn: ours, in: bufio.NewReader(ours)}
}

func TestQuery(t *testing.T) {
	ready := message('Z', "I")
	row := func(column string) string {
		return message('D', "\x00\x01"+string(binary.BigEndian.AppendUint32(nil, uint32(len(column))))+column)
	}
	client := session(t, message('R', "\x00\x00\x00\x00")+message('S', "a\x00b\x00")+ready,
		row("one")+row("")+message('D', "\x00\x01\xff\xff\xff\xff")+message('C', "SELECT 3\x00")+ready,
		message('E', "SERROR\x00Mno such table\x00\x00")+ready,
		message('D', "\x00\x01\x00\x00\x00\x09x"))
	if err := client.start("u", "d"); err != nil {
		t.Fatal(err)
	}
	rows, err := client.Query("SELECT 1")
	if want := []string{"one", "", ""}; err != nil || !reflect.DeepEqual(rows, want) {
		t.Fatalf("%q, %v", rows, err)
	}
	for _, want := range []string{"no such table", "cut off"} {
		if _, err := client.Query("SELECT 1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("%v; want %q", err, want)
		}
	}
}

func TestAServerThatWantsAPassword(t *testing.T) {
	client := session(t, message('R', "\x00\x00\x00\x0a"))
	if err := client.start("u", "d"); err == nil || !strings.Contains(err.Error(), "password") {
		t.Fatal(err)
	}
}

func TestQuote(t *testing.T) {
	if got := Quote("it's\x00 \\"); got != `'it''s \'` {
		t.Fatal(got)
	}
}
