/* What fan-out and heartbeats cost by themselves: one send(2) per connection and message, one send
 * of a ping and one recv of its pong. No parsing beyond what finds the end of a request, no
 * authentication, no engine.
 *
 *   floor CLIENTS_PORT PUBLISH_PORT PING_SECONDS (0: none)
 *
 * A POST's body holds one message a line. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 20000, TICKS_PER_SECOND = 20 };

static int epoll, clients_port, publish_port;
static int members[ROOM], member_count;
static char kind[ROOM + 64]; /* by descriptor: 'h'andshake, 'm'ember, 'p'ublisher */

static const char ACCEPTED[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char STORED[] = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";

static int listen_on(int port) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) {
    perror("listen");
    exit(1);
  }
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  return fd;
}

static void take_in(int listener, char as) {
  int fd = accept4(listener, NULL, NULL, as == 'h' ? SOCK_NONBLOCK : 0), on = 1;
  if (fd < 0 || fd >= ROOM) return;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  kind[fd] = as;
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void drop(int fd) {
  if (kind[fd] == 'm')
    for (int i = 0; i < member_count; i++)
      if (members[i] == fd) {
        members[i] = members[--member_count];
        break;
      }
  kind[fd] = 0;
  close(fd);
}

static void fan_out(const char *text, size_t length) {
  static char frame[1 << 16];
  size_t head = 2;
  frame[0] = (char)0x81;
  if (length < 126) {
    frame[1] = (char)length;
  } else {
    frame[1] = 126, frame[2] = (char)(length >> 8), frame[3] = (char)length;
    head = 4;
  }
  memcpy(frame + head, text, length);
  for (int i = 0; i < member_count; i++) send(members[i], frame, head + length, MSG_NOSIGNAL);
}

static void publish(int fd) {
  static char input[1 << 20];
  size_t length = 0;
  for (;;) {
    ssize_t got = recv(fd, input + length, sizeof input - length - 1, 0);
    if (got <= 0) {
      drop(fd);
      return;
    }
    length += (size_t)got;
    input[length] = 0;
    char *end = strstr(input, "\r\n\r\n"), *size = strcasestr(input, "content-length:");
    if (end && size && length >= (size_t)(end + 4 - input) + strtoul(size + 15, NULL, 10)) {
      send(fd, STORED, sizeof STORED - 1, MSG_NOSIGNAL);
      for (char *line = strtok(end + 4, "\n"); line; line = strtok(NULL, "\n"))
        fan_out(line, strlen(line));
      return;
    }
  }
}

static void read_client(int fd) {
  static char input[1 << 16];
  ssize_t got = recv(fd, input, sizeof input, 0);
  if (got <= 0) {
    if (got == 0 || errno != EAGAIN) drop(fd);
  } else if (kind[fd] == 'h') { /* the generator sends its request in one piece */
    send(fd, ACCEPTED, sizeof ACCEPTED - 1, MSG_NOSIGNAL);
    kind[fd] = 'm';
    members[member_count++] = fd;
  }
}

static double monotonic(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  epoll = epoll_create1(0);
  clients_port = listen_on(atoi(argv[1]));
  publish_port = listen_on(atoi(argv[2]));
  double interval = atof(argv[3]), began = monotonic();
  long pinged = 0;
  for (;;) {
    struct epoll_event events[512];
    int count = epoll_wait(epoll, events, 512, interval > 0 ? 1000 / TICKS_PER_SECOND : -1);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == clients_port) take_in(fd, 'h');
      else if (fd == publish_port) take_in(fd, 'p');
      else if (kind[fd] == 'p') publish(fd);
      else read_client(fd);
    }
    if (interval > 0 && member_count) {
      long due = (long)((monotonic() - began) * member_count / interval);
      if (due - pinged > member_count) pinged = due; /* it has just begun */
      for (; pinged < due; pinged++) send(members[pinged % member_count], "\x89\0", 2, MSG_NOSIGNAL);
    }
  }
}
