package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

const longTTL = "-session-ttl=1h"

func TestSessionsFromLoginToLogout(t *testing.T) {
	client := dial(t, startService(t, longTTL))
	cookie, other := client.login(), client.login()
	active := func(cookie string) bool {
		t.Helper()
		status, body := client.call("GET", "/verify", cookie)
		var answer introspection
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != 200 {
			t.Fatalf("verify: %d, %v", status, err)
		}
		if answer.Active != (answer.Subject != "") {
			t.Errorf("the subject must be told of an active session, and of no other: %s", body)
		}
		return answer.Active
	}
	if !active(cookie) || active("") || active("00-forged.00") || active(cookie+"0") {
		t.Error("the session must be active, and no other")
	}
	for i := 0; i < 2; i++ {
		if status, _ := client.call("POST", "/logout", cookie); status != 200 {
			t.Errorf("logout %d: status %d", i+1, status)
		}
		if active(cookie) || !active(other) {
			t.Error("logout must end its own session and leave the other")
		}
	}
	if status, _ := client.call("POST", "/logout", ""); status != 200 {
		t.Errorf("logout without a session: status %d", status)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	client := dial(t, startService(t))
	for _, test := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/healthz", 200}, {"GET", "/login", 405}, {"POST", "/verify", 405}, {"GET", "/logout", 405},
		{"GET", "/", 404}, {"GET", "/debug/runtime", 404},
	} {
		if status, _ := client.call(test.method, test.path, ""); status != test.want {
			t.Errorf("%s %s: status %d, want %d", test.method, test.path, status, test.want)
		}
	}
}

func TestServiceIsReadyOnlyOnceStarted(t *testing.T) {
	options, err := parseOptions(nil, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	service, err := newService(options)
	if err != nil || service.ready.Load() {
		t.Fatalf("ready before the start, or %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	service.start(ctx)
	if !service.ready.Load() {
		t.Error("not ready after the start")
	}
}

func TestRunEndsWithASignal(t *testing.T) {
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	if code := run(signals, []string{"-listen", "127.0.0.1:0"}, &bytes.Buffer{}); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestWrongFlagsExitWith2(t *testing.T) {
	for _, flags := range []string{
		"-no-such-flag", "argument", "-leak-sessions=1.5", "-leak-sessions=NaN", "-alloc-more=-1", "-leak-mmap=1MB",
		"-session-ttl=0s", "-expiry-interval=0s", "-stw-every=-1s", "-leak-goroutines=-1",
	} {
		var stderr bytes.Buffer
		if code := run(nil, []string{flags}, &stderr); code != 2 || stderr.Len() == 0 {
			t.Errorf("%s: exit code %d, want 2, with %q", flags, code, stderr.String())
		}
	}
}

func TestLeakMallocNeedsItsTag(t *testing.T) {
	options, err := parseOptions([]string{"-leak-malloc=1KiB"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	_, failed := newService(options)
	if mallocBuilt != (failed == nil) || !mallocBuilt && !strings.Contains(failed.Error(), "cgoleak") {
		t.Errorf("built with the tag: %v, but the flag gives %v", mallocBuilt, failed)
	}
}

func TestFlagsSwitchTheirDefects(t *testing.T) {
	client := dial(t, startService(t, longTTL, "-leak-goroutines=10", "-leak-mmap=64", "-warm-cache=1MiB", "-alloc-more=1"))
	before := startedBy("defect.(*Goroutines).OnRequest")
	for i := 0; i < 100; i++ {
		client.call("GET", "/verify", "")
		client.call("GET", "/healthz", "")
	}
	if got := startedBy("defect.(*Goroutines).OnRequest") - before; got != 10 {
		t.Errorf("100 requests leaked %d goroutines, want 10; healthz is none of them", got)
	}
}

func TestDefectsAreOffUnlessAskedFor(t *testing.T) {
	on := func(flags ...string) (on []string) {
		t.Helper()
		options, err := parseOptions(flags, &bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := newDefects(options, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, is := range map[string]bool{
			"audited": d.auditNext(), "goroutines": d.goroutines != nil, "alloc": d.alloc != nil, "mmap": d.mmap != nil,
			"malloc": d.malloc != nil, "warmCache": d.warmCache != nil,
		} {
			if is {
				on = append(on, name)
			}
		}
		return on
	}
	if healthy := on(); len(healthy) > 0 {
		t.Errorf("on without a flag: %v", healthy)
	}
	for flag, want := range map[string]string{
		"-leak-sessions=1": "audited", "-leak-goroutines=1": "goroutines", "-alloc-more=1": "alloc", "-leak-mmap=1": "mmap",
		"-warm-cache=1": "warmCache",
	} {
		if got := on(flag); len(got) != 1 || got[0] != want {
			t.Errorf("%s switches %v on, want %s alone", flag, got, want)
		}
	}
}

// startedBy counts the goroutines that this function started, so connections of other tests do not matter.
func startedBy(function string) (count int) {
	stacks := make([]byte, 1<<20)
	for _, line := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n") {
		if strings.HasPrefix(line, "created by ") && strings.Contains(line, function+" in ") {
			count++
		}
	}
	return count
}

// TestLeakSessionsLeaksItsShare logs in 40 times with sessions that expire at once.
func TestLeakSessionsLeaksItsShare(t *testing.T) {
	options, err := parseOptions([]string{"-leak-sessions=0.25", "-session-ttl=1ns"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	service, err := newService(options)
	if err != nil {
		t.Fatal(err)
	}
	stuck := service.defects.start(options, service.store)
	for i := 0; i < 40; i++ {
		service.store.Create(time.Now(), service.defects.auditNext())
	}
	<-stuck
	service.store.Expire(time.Now().Add(time.Hour))
	if service.store.Len() != 10 {
		t.Errorf("%d of 40 sessions stay, want 10", service.store.Len())
	}
}

// costs measures the allocations of a request of each kind. Clients differ in what they send; about a hundred bytes of
// headers do not matter here.
func costs(t *testing.T, flags ...string) (login, verify, logout, inactive float64) {
	t.Helper()
	const n = 1000
	client := dial(t, startService(t, append(flags, longTTL)...))
	cookie := client.login()
	measure := func(text []byte) float64 {
		for i := 0; i < 100; i++ {
			client.do(text)
		}
		return allocatedBy(n, func() { client.do(text) })
	}
	login = measure(request("POST", "/login", cookie))
	verify = measure(request("GET", "/verify", cookie))
	logout = measure(request("POST", "/logout", cookie))
	inactive = measure(request("GET", "/verify", cookie))
	return
}

func TestHealthyBytesPerRequest(t *testing.T) {
	login, verify, logout, inactive := costs(t)
	t.Logf("login %.0f, verify %.0f, logout %.0f, inactive %.0f bytes a request", login, verify, logout, inactive)
	for _, test := range []struct {
		name      string
		got, want float64
	}{
		{"login", login, loginBytes}, {"verify", verify, verifyBytes}, {"logout", logout, logoutBytes},
	} {
		if math.Abs(test.got/test.want-1) > 0.05 {
			t.Errorf("%s allocates %.0f bytes, not about %.0f: set its constant anew", test.name, test.got, test.want)
		}
	}
	// Timing decides which verifications find a session. It must have almost no effect on the bytes per request.
	if math.Abs(inactive/verify-1) > 0.05 {
		t.Errorf("an inactive session costs %.0f bytes, an active one %.0f", inactive, verify)
	}
}

func TestAllocMoreAddsItsPercentage(t *testing.T) {
	mix := func(flags ...string) float64 {
		login, verify, logout, _ := costs(t, flags...)
		return (3*login + 6*verify + logout) / 10
	}
	healthy, heavier := mix(), mix("-alloc-more=20")
	if more := 100 * (heavier/healthy - 1); more < 18 || more > 22 {
		t.Errorf("-alloc-more=20 allocates %.2f %% more", more)
	}
}
