// Command reexec begins as root, opens its port, gives its privileges up, and then executes itself again with the open
// port. That is the same process and the same file, but another program from the kernel's view. Its second life keeps a
// record of every request for ever.
//
// DNSCrypt/dnscrypt-proxy does so (dnscrypt-proxy/privilege_linux.go).
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"syscall"

	"memgate.dev/fixtures/internal/chores"
)

const nobody = 65534

// again hands the port to descriptor 3 of this very executable, as nobody.
func again(listener *net.TCPListener) error {
	file, err := listener.File()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // What is executed has this thread's identity.
	if err := syscall.Dup3(int(file.Fd()), 3, 0); err != nil && file.Fd() != 3 {
		return err
	}
	if os.Geteuid() == 0 {
		for _, call := range []uintptr{syscall.SYS_SETGID, syscall.SYS_SETUID} {
			if _, _, errno := syscall.RawSyscall(call, nobody, 0, 0); errno != 0 {
				return errno
			}
		}
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), "SECOND_LIFE=1"))
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19113", "address")
	flag.Parse()
	if os.Getenv("SECOND_LIFE") == "" {
		listener, err := net.Listen("tcp", *listen)
		if err != nil {
			log.Fatal(err)
		}
		log.Fatal(again(listener.(*net.TCPListener)))
	}
	listener, err := net.FileListener(os.NewFile(3, "port"))
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("serving as user %d", os.Getuid())
	var mutex sync.Mutex
	var records [][]byte
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		mutex.Lock()
		defer mutex.Unlock()
		records = append(records, make([]byte, 1024))
		fmt.Fprintln(w, len(records), chores.Do())
	})
	log.Fatal(http.Serve(listener, nil))
}
