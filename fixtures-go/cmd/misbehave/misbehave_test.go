package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the tests start this executable as the service itself.
func TestMain(m *testing.M) {
	if os.Getenv("MISBEHAVE") != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is a running service.
type process struct {
	*exec.Cmd
	t      *testing.T
	base   string
	stderr *bufio.Scanner
}

// start starts the service and waits for the line that names its address.
func start(t *testing.T, flags ...string) *process {
	t.Helper()
	p := launch(t, flags...)
	p.base = "http://" + p.line("listening on ")
	return p
}

// launch starts the service with a time limit.
func launch(t *testing.T, flags ...string) *process {
	t.Helper()
	p := &process{t: t, Cmd: exec.Command(os.Args[0], append(flags, "-listen", "127.0.0.1:0")...)}
	p.Env = append(os.Environ(), "MISBEHAVE=1")
	stderr, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(time.Minute, func() { p.Process.Kill() })
	t.Cleanup(func() {
		watchdog.Stop()
		p.Process.Kill()
		p.Wait()
	})
	p.stderr = bufio.NewScanner(stderr)
	return p
}

// line returns the rest of the first line of stderr that contains the text.
func (p *process) line(text string) string {
	p.t.Helper()
	for p.stderr.Scan() {
		if _, rest, found := strings.Cut(p.stderr.Text(), text); found {
			return rest
		}
	}
	p.t.Fatalf("stderr ended without %q", text)
	return ""
}

// get returns the status of a GET, or 0 if there is no answer.
func (p *process) get(path string) int {
	response, err := http.Get(p.base + path)
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// end waits until the service has ended and returns how it ended.
func (p *process) end() syscall.WaitStatus {
	p.t.Helper()
	for p.stderr.Scan() {
	}
	err := p.Wait()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		p.t.Fatal(err)
	}
	return p.ProcessState.Sys().(syscall.WaitStatus)
}

func TestStatuses(t *testing.T) {
	for _, test := range []struct {
		mode            string
		healthz, others int
	}{
		{"never-ready", 503, 200}, {"fail-all", 200, 500}, {"ignore-sigterm", 200, 200}, {"fork", 200, 200}, {"share", 200, 200},
	} {
		t.Run(test.mode, func(t *testing.T) {
			service := start(t, "-mode", test.mode, "-child-for=1ms")
			if got := service.get("/healthz"); got != test.healthz {
				t.Errorf("healthz: status %d, want %d", got, test.healthz)
			}
			if got := service.get("/login"); got != test.others {
				t.Errorf("login: status %d, want %d", got, test.others)
			}
		})
	}
}

func TestShareLetsAnotherListenAtTheSameAddress(t *testing.T) {
	service := start(t, "-mode=share")
	address := strings.TrimPrefix(service.base, "http://")
	if alone, err := net.Listen("tcp", address); err == nil {
		alone.Close()
		t.Error("one that does not share can listen too")
	}
	config := net.ListenConfig{Control: share}
	second, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestSigtermEndsAWellMeaningService(t *testing.T) {
	service := start(t, "-mode=fail-all")
	service.Process.Signal(syscall.SIGTERM)
	if status := service.end(); status.ExitStatus() != 0 {
		t.Errorf("ended with %v", status)
	}
}

func TestIgnoreSigterm(t *testing.T) {
	service := start(t, "-mode=ignore-sigterm")
	service.Process.Signal(syscall.SIGTERM)
	service.Process.Signal(syscall.SIGINT)
	for i := 0; i < 20; i++ {
		if got := service.get("/healthz"); got != 200 {
			t.Fatalf("status %d after SIGTERM", got)
		}
	}
	service.Process.Kill()
	if status := service.end(); status.Signal() != syscall.SIGKILL {
		t.Errorf("ended with %v", status)
	}
}

func TestCrashAndSegvComeAtTheirRequest(t *testing.T) {
	for mode, ended := range map[string]func(syscall.WaitStatus) bool{
		"crash": func(status syscall.WaitStatus) bool { return status.ExitStatus() == 2 },
		"segv":  func(status syscall.WaitStatus) bool { return status.Signal() == syscall.SIGSEGV },
	} {
		t.Run(mode, func(t *testing.T) {
			service := start(t, "-mode", mode, "-requests=3")
			for _, path := range []string{"/healthz", "/login", "/verify"} {
				if got := service.get(path); got != 200 {
					t.Fatalf("%s: status %d before the end", path, got)
				}
			}
			service.get("/login")
			if status := service.end(); !ended(status) {
				t.Errorf("ended with %v, signal %v", status, status.Signal())
			}
		})
	}
}

func TestExit(t *testing.T) {
	if code := run([]string{"-mode=exit"}, os.Stderr); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
}

func TestWrongFlagsExitWith2(t *testing.T) {
	for _, flags := range [][]string{{}, {"-mode=none"}, {"-mode=exit", "argument"}, {"-hog-max=1MB"}} {
		var stderr strings.Builder
		if code := run(flags, &stderr); code != 2 || stderr.Len() == 0 {
			t.Errorf("%v: exit code %d, want 2, with %q", flags, code, stderr.String())
		}
	}
}

func TestForkLeavesAChildInASessionOfItsOwn(t *testing.T) {
	service := launch(t, "-mode=fork")
	var pid int
	if _, err := fmt.Sscan(service.line("child "), &pid); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGKILL)
	service.line("listening on ")
	group, err := syscall.Getpgid(pid)
	if err != nil || group != pid {
		t.Errorf("the child's process group is %d, %v, want its own, %d", group, err, pid)
	}
	service.Process.Signal(syscall.SIGTERM)
	service.end()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || strings.Contains(string(stat), ") Z ") {
		t.Errorf("the child must outlive the service: %s, %v", stat, err)
	}
}

func TestHogGrowsFromTheFirstRequestOn(t *testing.T) {
	service := start(t, "-mode=hog", "-hog-max=64MiB")
	if got := service.get("/login"); got != 200 {
		t.Fatalf("status %d", got)
	}
	service.line("nobody minds")
	var size, resident int
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", service.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscan(string(statm), &size, &resident)
	if resident*os.Getpagesize() < 64<<20 {
		t.Errorf("%d bytes resident, want 64 MiB at least", resident*os.Getpagesize())
	}
}

func TestSpoolGrowsOutsideOfTheProcess(t *testing.T) {
	service := start(t, "-mode=spool", "-hog-max=32MiB")
	if got := service.get("/login"); got != 200 {
		t.Fatalf("status %d", got)
	}
	service.line("nobody minds")
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", service.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		path := fmt.Sprintf("/proc/%d/fd/%s", service.Process.Pid, file.Name())
		if target, _ := os.Readlink(path); strings.HasPrefix(target, "/dev/shm/") {
			if info, err := os.Stat(path); err != nil || info.Size() != 32<<20 || !strings.HasSuffix(target, " (deleted)") {
				t.Errorf("%s: %v, %v, want 32 MiB without a name", target, info, err)
			}
			return
		}
	}
	t.Error("no file on /dev/shm is open")
}

func TestStdinEndsWithTheStandardInput(t *testing.T) {
	command := exec.Command(os.Args[0], "-mode=stdin")
	command.Env = append(os.Environ(), "MISBEHAVE=1")
	if output, err := command.CombinedOutput(); err != nil || len(output) != 0 {
		t.Errorf("%v with %q, want exit code 0 and silence", err, output)
	}
}
