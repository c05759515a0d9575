/* Commands, one a line; each that measures is answered with one line of JSON.
 *
 *   clients PORT | publish PORT          where subscribers and publishers connect
 *   users COUNT                          then COUNT lines: name token
 *   set NAME LENGTH                      then LENGTH bytes: head, say, expect, capture, stream,
 *                                        ping, pong, post; `say` and `expect` append a step
 *   plain                                forget the dialect
 *   connect COUNT WINDOW ADDRESS NEED SECONDS
 *   drop | reset | idle SECONDS          pings are answered only while a command is carried out
 *   closed CONNECTIONS SECONDS POSTS | open CONNECTIONS RATE SECONDS
 *   lockstep ROUNDS POSTS PATIENCE
 *   engine PARTS DEPTH SECONDS LENGTH    then LENGTH bytes of RESP
 *   quit
 */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

int epoll;
struct sockaddr_in target_clients, target_publish;
uint64_t turn;

void fail(const char *what) {
  fprintf(stderr, "load: %s (%s)\n", what, strerror(errno));
  exit(1);
}

uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

void watch(Source *source, int fd, uint32_t events, bool again) {
  struct epoll_event event = {.events = events, .data.ptr = source};
  if (epoll_ctl(epoll, again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

void turn_loop(uint64_t until) {
  static struct epoll_event events[512];
  static int depth; /* a publisher that waits for room turns the loop inside a turn */
  struct epoll_event *own = depth ? calloc(64, sizeof *own) : events;
  uint64_t at = now();
  uint64_t wait = until > at ? until - at : 0;
  struct timespec timeout = {(time_t)(wait / 1000000000), (long)(wait % 1000000000)};
  int count = epoll_pwait2(epoll, own, depth ? 64 : 512, until ? &timeout : NULL, NULL);
  if (count < 0 && errno != EINTR) fail("epoll_pwait2");
  depth++;
  for (int i = 0; i < count; i++) {
    turn = now(); /* per socket: what is read later was received later */
    Source *source = own[i].data.ptr;
    source->ready(source, own[i].events);
  }
  depth--;
  if (own != events) free(own);
}

static char *read_bytes(size_t length) {
  char *bytes = malloc(length + 1);
  if (!bytes || fread(bytes, 1, length, stdin) != length) fail("standard input ended");
  bytes[length] = 0;
  return bytes;
}

static void set(const char *name, char *bytes, size_t length) {
  if (strcmp(name, "head") == 0) {
    template_parse(&dialect.head, bytes, length);
  } else if (strcmp(name, "say") == 0) {
    dialect.kinds[dialect.steps] = 's';
    template_parse(&dialect.say[dialect.steps++], bytes, length);
  } else if (strcmp(name, "expect") == 0) {
    dialect.kinds[dialect.steps] = 'e';
    template_parse(&dialect.expect[dialect.steps++], bytes, length);
  } else if (strcmp(name, "capture") == 0) {
    template_parse(&dialect.capture[dialect.capture[0].length ? 1 : 0], bytes, length);
  } else if (strcmp(name, "post") == 0) {
    template_parse(&post, bytes, length);
  } else if (strcmp(name, "stream") == 0) {
    dialect.stream = true;
  } else if (strcmp(name, "ping") == 0) {
    dialect.ping = bytes, dialect.ping_length = length;
  } else if (strcmp(name, "pong") == 0) {
    dialect.pong = bytes, dialect.pong_length = length;
  } else {
    fail(name);
  }
}

static void read_users(int count) {
  users = calloc((size_t)count, sizeof *users);
  user_count = count;
  static char token[1 << 16];
  for (int i = 0; i < count; i++) {
    if (scanf("%6s %65535s", users[i].name, token) != 2) fail("users");
    users[i].token = strdup(token);
  }
  if (getchar() != '\n') fail("users");
}

double cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void idle(double seconds) {
  uint64_t until = now() + (uint64_t)(seconds * 1e9), answered = pings;
  while (now() < until) turn_loop(until);
  printf("{\"pings\":%lu,\"open\":%d,\"closed\":%d}\n", pings - answered, open_count, closed_early);
}

static void connect_all(int count, int window, int address, int need, double seconds) {
  uint64_t began = now(), before = delivered;
  double cpu = cpu_seconds();
  subscribers_connect(count, window, address, need, seconds);
  printf("{\"seconds\":%.6f,\"open\":%d,\"closed\":%d,\"delivered\":%lu,\"misordered\":%lu,"
         "\"skipped\":%lu,\"load_cpu\":%.4f}\n",
         (double)(now() - began) / 1e9, open_count, closed_early, delivered - before, misordered,
         skipped, cpu_seconds() - cpu);
}

static void carry_out(const char *line) {
  char name[16];
  int a, b, c, d;
  long many;
  double seconds, rate;
  if (sscanf(line, "clients %d", &a) == 1) {
    target_clients.sin_port = htons((uint16_t)a);
  } else if (sscanf(line, "publish %d", &a) == 1) {
    target_publish.sin_port = htons((uint16_t)a);
  } else if (sscanf(line, "users %d", &a) == 1) {
    read_users(a);
  } else if (sscanf(line, "set %15s %ld", name, &many) == 2) {
    set(name, read_bytes((size_t)many), (size_t)many);
  } else if (sscanf(line, "connect %d %d %d %d %lf", &a, &b, &c, &d, &seconds) == 5) {
    connect_all(a, b, c, d, seconds);
  } else if (sscanf(line, "idle %lf", &seconds) == 1) {
    idle(seconds);
  } else if (sscanf(line, "closed %d %lf %ld", &a, &seconds, &many) == 3) {
    publish_closed(a, seconds, many);
  } else if (sscanf(line, "open %d %lf %lf", &a, &rate, &seconds) == 3) {
    publish_open(a, rate, seconds);
  } else if (sscanf(line, "lockstep %d %d %lf", &a, &b, &seconds) == 3) {
    publish_lockstep(a, b, seconds);
  } else if (sscanf(line, "engine %d %d %lf %ld", &a, &b, &seconds, &many) == 4) {
    engine_alone(read_bytes((size_t)many), (size_t)many, a, b, seconds);
  } else if (strcmp(line, "plain\n") == 0) {
    dialect = (Dialect){0};
  } else if (strcmp(line, "drop\n") == 0) {
    subscribers_drop();
    printf("{}\n");
  } else if (strcmp(line, "reset\n") == 0) {
    subscribers_reset();
    printf("{}\n");
  } else if (strcmp(line, "quit\n") == 0) {
    exit(0);
  } else {
    fail(line);
  }
  fflush(stdout);
}

int main(void) {
  target_clients.sin_family = target_publish.sin_family = AF_INET;
  target_clients.sin_addr.s_addr = target_publish.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) fail("epoll_create1");
  char line[256];
  while (fgets(line, sizeof line, stdin)) carry_out(line);
  return 0;
}
