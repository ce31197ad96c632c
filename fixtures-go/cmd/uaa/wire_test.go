package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// startService serves with these flags until the test ends and returns the address.
func startService(t *testing.T, flags ...string) string {
	t.Helper()
	options, err := parseOptions(flags, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	service, err := newService(options)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, listener, service) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections() // Otherwise the end waits for connections that were opened in reserve.
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the service ended with %v", err)
		}
	})
	return listener.Addr().String()
}

// wire is a client that allocates nothing for a request, so all allocations of the process are the service's.
type wire struct {
	t    *testing.T
	conn net.Conn
	text [16 << 10]byte
}

func dial(t *testing.T, address string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &wire{t: t, conn: conn}
}

// request renders a request, with a cookie if there is one.
func request(method, path, cookie string) []byte {
	text := method + " " + path + " HTTP/1.1\r\nHost: uaa\r\nUser-Agent: test\r\n"
	if cookie != "" {
		text += "Cookie: " + cookieName + "=" + cookie + "\r\n"
	}
	if method == "POST" {
		text += "Content-Length: 0\r\n"
	}
	return []byte(text + "\r\n")
}

var (
	endOfHeader   = []byte("\r\n\r\n")
	contentLength = []byte("Content-Length:")
)

// do sends a request and returns the response, valid until the next call.
func (w *wire) do(request []byte) []byte {
	w.t.Helper()
	if _, err := w.conn.Write(request); err != nil {
		w.t.Fatal(err)
	}
	for end, length := 0, -1; end != length; {
		n, err := w.conn.Read(w.text[end:])
		if err != nil {
			w.t.Fatalf("after %d bytes: %v", end, err)
		}
		end += n
		if header := bytes.Index(w.text[:end], endOfHeader); header >= 0 && length < 0 {
			length = header + len(endOfHeader) + bodyLength(w.text[:header])
		}
		if end == length {
			return w.text[:end]
		}
	}
	return nil
}

// bodyLength reads the length of the body from a header.
func bodyLength(header []byte) int {
	length := 0
	for _, c := range header[bytes.Index(header, contentLength)+len(contentLength):] {
		if c >= '0' && c <= '9' {
			length = length*10 + int(c-'0')
		} else if c != ' ' {
			break
		}
	}
	return length
}

// call sends a request and returns status and body.
func (w *wire) call(method, path, cookie string) (status int, body string) {
	w.t.Helper()
	header, body, _ := strings.Cut(string(w.do(request(method, path, cookie))), "\r\n\r\n")
	status, err := strconv.Atoi(strings.Fields(header)[1])
	if err != nil {
		w.t.Fatal(err)
	}
	return status, body
}

// login logs in and returns the cookie.
func (w *wire) login() string {
	w.t.Helper()
	response := string(w.do(request("POST", "/login", "")))
	_, rest, found := strings.Cut(response, "Set-Cookie: "+cookieName+"=")
	if !found {
		w.t.Fatalf("a login without a cookie:\n%s", response)
	}
	cookie, _, _ := strings.Cut(rest, ";")
	return cookie
}

// allocatedBy returns the bytes that the process allocates in each of n calls.
func allocatedBy(n int, act func()) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := 0; i < n; i++ {
		act()
	}
	runtime.ReadMemStats(&after)
	return float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
}
