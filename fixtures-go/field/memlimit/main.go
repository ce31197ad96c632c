// Command memlimit has a tree of small nodes, which is there from the start and never grows, and makes some garbage
// with each request. With room the GC runs now and then. If GOMEMLIMIT is just above what lives, the GC runs all the
// time and takes the processor. Nothing leaks in either case.
//
// golang/go#58106 describes the spiral. The runtime lets the GC take at most half of the CPU, so the service does not
// die: it is slow for hours, and its memory looks perfect.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
)

type node struct {
	left, right *node
	key         uint64
	value       *uint64
}

func tree(depth int, key uint64) *node {
	n := &node{key: key, value: new(uint64)}
	*n.value = key * 3
	if depth > 0 {
		n.left, n.right = tree(depth-1, 2*key), tree(depth-1, 2*key+1)
	}
	return n
}

func (n *node) find(path uint64, depth int) uint64 {
	for ; depth > 0; depth-- {
		if path&1 == 0 {
			n = n.left
		} else {
			n = n.right
		}
		path >>= 1
	}
	return *n.value
}

func main() {
	listen := flag.String("listen", "127.0.0.1:19104", "address")
	depth := flag.Int("depth", 17, "of the tree: 2^(depth+1) nodes of 40 bytes")
	garbage := flag.Int("garbage", 36, "KiB of a request")
	flag.Parse()
	root := tree(*depth, 1)
	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/work", func(w http.ResponseWriter, _ *http.Request) {
		var sum uint64
		for i := 0; i < *garbage; i++ {
			page := make([]uint64, 128)
			page[i] = root.find(uint64(i)*7919, *depth)
			sum += consume(page)
		}
		fmt.Fprintln(w, sum)
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}

var sink []uint64

// consume would keep an empty page, so the compiler puts no page on the stack.
//
//go:noinline
func consume(page []uint64) uint64 {
	if len(page) == 0 {
		sink = page
	}
	return page[0]
}
