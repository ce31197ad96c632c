// Stops in a leaf that the C library called back into. Built without frame pointers.
#include <signal.h>
#include <stdlib.h>

__attribute__((noipa)) static int leaf(int a) {
	raise(SIGSTOP);
	return a;
}

__attribute__((noipa)) static int compare(const void *a, const void *b) {
	return leaf(*(const int *)a) - *(const int *)b;
}

int main(void) {
	int values[] = {2, 1};
	qsort(values, 2, sizeof *values, compare);
	return values[0];
}
