//go:build cgo && cgoleak

package defect

/*
#include <stdlib.h>
#include <string.h>

// render_and_forget returns its buffer, so that the compiler does not remove an unused allocation.
__attribute__((noinline)) static void *render_and_forget(size_t bytes) {
	void *buffer = malloc(bytes);
	if (buffer != NULL) {
		memset(buffer, 1, bytes);
	}
	return buffer;
}
*/
import "C"

func mallocAvailable() error { return nil }

func mallocAndForget(bytes uint64) {
	C.render_and_forget(C.size_t(bytes))
}
