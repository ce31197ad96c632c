// Stops in the handler of a signal that came in the middle of something else.
#include <signal.h>

static volatile int handled;

__attribute__((noipa)) static void handler(int signal) {
	raise(SIGSTOP);
	handled = signal;
}

__attribute__((noipa)) static int work(int n) {
	raise(SIGUSR1);
	return n + 1;
}

int main(void) {
	signal(SIGUSR1, handler);
	return work(1) + handled;
}
