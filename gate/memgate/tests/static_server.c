/* Answers every request on 127.0.0.1 and the port that its argument names. No Go, no library. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 64

int main(int argc, char **argv)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0) };
	struct pollfd waiting[MOST];
	char request[4096];
	int count = 1, one = 1;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	waiting[0].fd = socket(AF_INET, SOCK_STREAM, 0);
	waiting[0].events = POLLIN;
	setsockopt(waiting[0].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(waiting[0].fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(waiting[0].fd, MOST) != 0)
		return 1;
	while (poll(waiting, count, -1) >= 0) {
		if (waiting[0].revents != 0 && count < MOST) {
			waiting[count].fd = accept(waiting[0].fd, NULL, NULL);
			waiting[count].events = POLLIN;
			waiting[count].revents = 0;
			count++;
		}
		for (int i = 1; i < count; i++) {
			if (waiting[i].revents == 0)
				continue;
			/* A request of the test fits into one packet. */
			if (read(waiting[i].fd, request, sizeof request) > 0 &&
			    write(waiting[i].fd, answer, sizeof answer - 1) > 0)
				continue;
			close(waiting[i].fd);
			waiting[i--] = waiting[--count];
		}
	}
	return 1;
}
