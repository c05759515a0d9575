/* What fan-out and heartbeats cost by themselves: one send(2) per connection and message, one send
 * of a ping and one recv of its pong, one event relayed to one user. No parsing beyond what finds
 * the end of a request, no authentication, no log.
 *
 *   floor CLIENTS_PORT PUBLISH_PORT PING_SECONDS (0: none) ENGINE_PORT (0: none)
 *
 * A POST's body holds one message a line. `POST /` sends it to everyone, `POST /u00042` to whoever
 * came last with `GET /u00042`; with an engine the latter goes through its PUBLISH, and is answered
 * when the engine has answered. */
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

enum { ROOM = 20000, TICKS_PER_SECOND = 20, USERS = 100000, CHUNK = 1 << 20 };

static int epoll, clients_port, publish_port;
static int members[ROOM], member_count;
static char kind[ROOM + 64]; /* by descriptor: 'h'andshake, 'm'ember, 'p'ublisher; the
                                engine's 'r'eplies, its pu's'hes */
static int member_of[USERS]; /* by the user's number; 0: nobody */
static int commands = -1, pushes = -1; /* connections to the engine */
static int unanswered[ROOM];           /* a ring of publishers that wait for the engine */
static unsigned first_unanswered, last_unanswered;

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

/* The user that a request line `GET /u00042 …` or `POST /u00042 …` names, or -1. */
static int user_of(const char *request) {
  const char *path = strchr(request, '/');
  return path && path[1] == 'u' ? (int)(strtoul(path + 2, NULL, 10) % USERS) : -1;
}

static void deliver(const char *text, size_t length, int user) {
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
  if (user >= 0) {
    if (member_of[user]) send(member_of[user], frame, head + length, MSG_NOSIGNAL);
    return;
  }
  for (int i = 0; i < member_count; i++) send(members[i], frame, head + length, MSG_NOSIGNAL);
}

/* Send the whole of it, and wait where the socket is full. */
static void send_all(int fd, const char *data, size_t length) {
  while (length) {
    ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
    if (sent < 0) {
      perror("send");
      exit(1);
    }
    data += sent, length -= (size_t)sent;
  }
}

static int connect_to_engine(int port, const char *greeting, char as) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, (struct sockaddr *)&at, sizeof at)) {
    perror("connect");
    exit(1);
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  send_all(fd, greeting, strlen(greeting));
  kind[fd] = as;
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  return fd;
}

static void through_the_engine(int publisher, const char *text, size_t length, int user) {
  static char command[1 << 16];
  int size = snprintf(command, sizeof command,
                      "*3\r\n$7\r\nPUBLISH\r\n$1\r\nf\r\n$%zu\r\n%05d%.*s\r\n", length + 5, user,
                      (int)length, text);
  send_all(commands, command, (size_t)size);
  unanswered[last_unanswered++ % ROOM] = publisher;
}

/* One reply `:1` for each PUBLISH, in order. */
static void read_replies(void) {
  static char input[CHUNK];
  ssize_t got = recv(commands, input, sizeof input, 0);
  if (got <= 0) exit(0);
  for (ssize_t i = 0; i < got; i++)
    if (input[i] == '\n')
      send(unanswered[first_unanswered++ % ROOM], STORED, sizeof STORED - 1, MSG_NOSIGNAL);
}

/* `*3 $7 message $1 f $<length> <five digits of the user><text>`, and once `*3 $9 subscribe …`. */
static void read_pushes(void) {
  static const char HEAD[] = "*3\r\n$7\r\nmessage\r\n$1\r\nf\r\n$";
  static char input[CHUNK + 1];
  static size_t length;
  ssize_t got = recv(pushes, input + length, CHUNK - length, 0);
  if (got <= 0) exit(0);
  length += (size_t)got;
  input[length] = 0;
  char *at = input;
  if (strncmp(at, "*3\r\n$9", 6) == 0) at = memchr(at, ':', length) + 4;
  for (;;) {
    size_t left = length - (size_t)(at - input), head = sizeof HEAD - 1;
    char *end = left > head ? memchr(at + head, '\n', left - head) : NULL;
    size_t size = end ? strtoul(at + head, NULL, 10) : 0;
    if (!end || (size_t)(end + 1 - at) + size + 2 > left) break;
    char *text = end + 1;
    char digits[6] = {text[0], text[1], text[2], text[3], text[4], 0};
    deliver(text + 5, size - 5, atoi(digits));
    at = text + size + 2;
  }
  length -= (size_t)(at - input);
  memmove(input, at, length);
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
      int user = user_of(input);
      if (user >= 0 && commands >= 0) {
        through_the_engine(fd, end + 4, strlen(end + 4), user);
        return;
      }
      send(fd, STORED, sizeof STORED - 1, MSG_NOSIGNAL);
      for (char *line = strtok(end + 4, "\n"); line; line = strtok(NULL, "\n"))
        deliver(line, strlen(line), user);
      return;
    }
  }
}

static void read_client(int fd) {
  static char input[1 << 16];
  ssize_t got = recv(fd, input, sizeof input - 1, 0);
  if (got <= 0) {
    if (got == 0 || errno != EAGAIN) drop(fd);
  } else if (kind[fd] == 'h') { /* the generator sends its request in one piece */
    send(fd, ACCEPTED, sizeof ACCEPTED - 1, MSG_NOSIGNAL);
    kind[fd] = 'm';
    input[got] = 0;
    int user = user_of(input);
    if (user >= 0) member_of[user] = fd;
    members[member_count++] = fd;
  }
}

static double monotonic(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  epoll = epoll_create1(0);
  clients_port = listen_on(atoi(argv[1]));
  publish_port = listen_on(atoi(argv[2]));
  double interval = atof(argv[3]), began = monotonic();
  if (atoi(argv[4])) {
    commands = connect_to_engine(atoi(argv[4]), "", 'r');
    pushes = connect_to_engine(atoi(argv[4]), "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nf\r\n", 's');
  }
  long pinged = 0;
  for (;;) {
    struct epoll_event events[512];
    int count = epoll_wait(epoll, events, 512, interval > 0 ? 1000 / TICKS_PER_SECOND : -1);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == clients_port) take_in(fd, 'h');
      else if (fd == publish_port) take_in(fd, 'p');
      else if (kind[fd] == 'p') publish(fd);
      else if (kind[fd] == 'r') read_replies();
      else if (kind[fd] == 's') read_pushes();
      else read_client(fd);
    }
    if (interval > 0 && member_count) {
      long due = (long)((monotonic() - began) * member_count / interval);
      if (due - pinged > member_count) pinged = due; /* it has just begun */
      for (; pinged < due; pinged++) send(members[pinged % member_count], "\x89\0", 2, MSG_NOSIGNAL);
    }
  }
}
