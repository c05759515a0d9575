#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

typedef enum { GONE, CONNECTING, SHAKING, STEPPING, OPEN } State;

typedef struct {
  Source source;
  int fd;
  State state;
  int step;
  uint32_t last;  /* sequence number of the last mark */
  uint32_t marks; /* since it was opened */
  char *rest;     /* of a frame, or of the answer's head, that has not come in whole */
  size_t rest_length;
  char position[POSITION];
} Subscriber;

User *users;
int user_count;
Dialect dialect;
Samples delivery;
uint32_t sent_to_all;
uint64_t delivered, misordered, skipped, received_bytes, pings;
int open_count, closed_early;

static Subscriber *subscribers;
static int subscriber_count, shaking, wanted_marks, complete;
static char buffer[1 << 20];

static size_t render(const Template *template, const Subscriber *subscriber, char *out) {
  const User *user = &users[subscriber - subscribers];
  char *at = out;
  for (int i = 0; i < template->count; i++) {
    const Part *part = &template->parts[i];
    const char *text = part->text;
    size_t length = part->length;
    if (part->kind == THE_USER || part->kind == THE_SAME) text = user->name, length = USER;
    if (part->kind == THE_TOKEN) text = user->token, length = strlen(text);
    if (part->kind == THE_POSITION)
      text = subscriber->position, length = strlen(text);
    memcpy(at, text, length);
    at += length;
  }
  return (size_t)(at - out);
}

static void write_all(Subscriber *subscriber, const char *data, size_t length) {
  if (send(subscriber->fd, data, length, MSG_NOSIGNAL) != (ssize_t)length && errno != EPIPE &&
      errno != ECONNRESET)
    fail("a client's small write did not fit");
}

/* A masked frame (RFC 6455, 5.3); the mask is zero, which is allowed and costs nothing. */
static void send_frame(Subscriber *subscriber, int opcode, const char *payload, size_t length) {
  static char frame[1 << 16];
  size_t head = 2;
  frame[0] = (char)(0x80 | opcode);
  if (length < 126) {
    frame[1] = (char)(0x80 | length);
  } else {
    frame[1] = (char)(0x80 | 126);
    frame[2] = (char)(length >> 8);
    frame[3] = (char)length;
    head = 4;
  }
  memset(frame + head, 0, 4);
  memcpy(frame + head + 4, payload, length);
  write_all(subscriber, frame, head + 4 + length);
}

static void shut(Subscriber *subscriber, bool reset) {
  if (subscriber->state == GONE) return;
  if (reset) {
    struct linger at_once = {1, 0};
    setsockopt(subscriber->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }
  close(subscriber->fd);
  if (subscriber->state == OPEN) open_count--;
  else shaking--;
  subscriber->state = GONE;
  free(subscriber->rest);
  subscriber->rest = NULL;
  subscriber->rest_length = 0;
}

static void lost(Subscriber *subscriber) {
  closed_early++;
  shut(subscriber, false);
}

static void check_complete(Subscriber *subscriber) {
  if (subscriber->state == OPEN && subscriber->marks == (uint32_t)wanted_marks) complete++;
}

/* Say what is next to be said, up to the next text that must be waited for. */
static void go_on(Subscriber *subscriber) {
  static char text[1 << 16];
  while (subscriber->step < dialect.steps && dialect.kinds[subscriber->step] == 's')
    send_frame(subscriber, 1, text, render(&dialect.say[subscriber->step++], subscriber, text));
  if (subscriber->step == dialect.steps) {
    subscriber->state = OPEN;
    shaking--;
    open_count++;
    check_complete(subscriber);
  }
}

static uint64_t number(const char *at, int digits) {
  uint64_t value = 0;
  while (digits--) value = value * 10 + (uint64_t)(*at++ - '0');
  return value;
}

/* Count the marks in `data`; gives back where the last one ended, or `data`. */
static const char *count_marks(Subscriber *subscriber, const char *data, size_t length) {
  const char *end = data + length, *after = data;
  for (const char *at = data; (at = memchr(at, '@', (size_t)(end - at)));) {
    if (end - at < MARK) break;
    if (at[9] != '@' || at[31] != '@' || at[32] != '@') {
      at++;
      continue;
    }
    uint32_t sequence = (uint32_t)number(at + 1, 8);
    uint64_t sent = number(at + 10, 21);
    if (sequence == subscriber->last + 1) {
      delivered++;
    } else if (sequence > subscriber->last) {
      skipped += sequence - subscriber->last - 1;
      delivered++;
    } else {
      misordered++; /* again, or late */
    }
    if (sequence > subscriber->last) subscriber->last = sequence;
    samples_add(&delivery, turn > sent ? turn - sent : 0);
    subscriber->marks++;
    check_complete(subscriber);
    after = at = at + MARK;
  }
  return after;
}

static void capture(Subscriber *subscriber, const char *data, size_t length) {
  char prefix[512];
  for (int i = 0; i < 2; i++) {
    if (!dialect.capture[i].length) continue;
    size_t size = render(&dialect.capture[i], subscriber, prefix);
    const char *at = memmem(data, length, prefix, size);
    if (!at) continue;
    at += size;
    const char *quote = memchr(at, '"', (size_t)(data + length - at));
    if (!quote || quote - at >= POSITION) continue;
    memcpy(subscriber->position, at, (size_t)(quote - at));
    subscriber->position[quote - at] = 0;
  }
}

static void take(Subscriber *subscriber, const char *data, size_t length) {
  if (dialect.ping_length && length == dialect.ping_length &&
      memcmp(data, dialect.ping, length) == 0) {
    pings++;
    send_frame(subscriber, 1, dialect.pong, dialect.pong_length);
    return;
  }
  if (dialect.capture[0].length) capture(subscriber, data, length);
  if (subscriber->state == STEPPING) {
    static char text[1 << 16];
    size_t size = render(&dialect.expect[subscriber->step], subscriber, text);
    if (memmem(data, length, text, size)) {
      subscriber->step++;
      go_on(subscriber);
    }
  }
  count_marks(subscriber, data, length);
}

/* Take whole frames off the front; gives back how much was taken, or -1 where it is closed. */
static ssize_t take_frames(Subscriber *subscriber, const char *data, size_t length) {
  size_t at = 0;
  while (length - at >= 2) {
    const unsigned char *head = (const unsigned char *)data + at;
    size_t size = head[1] & 0x7f, skip = 2;
    if (size == 126) {
      if (length - at < 4) break;
      size = (size_t)head[2] << 8 | head[3];
      skip = 4;
    } else if (size == 127) {
      if (length - at < 10) break;
      size = 0;
      for (int i = 2; i < 10; i++) size = size << 8 | head[i];
      skip = 10;
    }
    if (length - at < skip + size) break;
    const char *payload = data + at + skip;
    int opcode = head[0] & 0x0f;
    if (opcode == 8) return -1;
    if (opcode == 9) {
      pings++;
      send_frame(subscriber, 10, payload, size);
    } else if (opcode < 3) {
      take(subscriber, payload, size);
    }
    at += skip + size;
  }
  return (ssize_t)at;
}

static ssize_t take_stream(Subscriber *subscriber, const char *data, size_t length) {
  if (subscriber->state == STEPPING) {
    take(subscriber, data, length);
    return (ssize_t)length;
  }
  const char *after = count_marks(subscriber, data, length);
  /* Keep what may be the beginning of a mark. */
  const char *at = memchr(after, '@', (size_t)(data + length - after));
  return at && data + length - at < MARK ? at - data : (ssize_t)length;
}

static ssize_t take_answer(Subscriber *subscriber, const char *data, size_t length) {
  const char *end = memmem(data, length, "\r\n\r\n", 4);
  if (!end) return 0;
  const char *status = dialect.stream ? " 200 " : " 101 ";
  if (!memmem(data, length < 16 ? length : 16, status, 5)) {
    static int told;
    if (told++ < 3) fprintf(stderr, "refused: %.*s\n", (int)(length < 300 ? length : 300), data);
    return -1;
  }
  subscriber->state = STEPPING;
  go_on(subscriber);
  return end + 4 - data;
}

static void read_some(Subscriber *subscriber) {
  size_t kept = subscriber->rest_length;
  if (kept) memcpy(buffer, subscriber->rest, kept);
  ssize_t got = recv(subscriber->fd, buffer + kept, sizeof buffer - kept, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    lost(subscriber);
    return;
  }
  received_bytes += (uint64_t)got;
  size_t length = kept + (size_t)got, at = 0;
  if (subscriber->state == SHAKING) {
    ssize_t taken = take_answer(subscriber, buffer, length);
    if (taken < 0) {
      lost(subscriber);
      return;
    }
    at = (size_t)taken;
  }
  if (subscriber->state != SHAKING && at < length) {
    ssize_t taken = dialect.stream ? take_stream(subscriber, buffer + at, length - at)
                                   : take_frames(subscriber, buffer + at, length - at);
    if (taken < 0) {
      lost(subscriber);
      return;
    }
    at += (size_t)taken;
  }
  size_t left = length - at;
  if (left) {
    if (left > sizeof buffer / 2) fail("a frame is too large");
    subscriber->rest = realloc(subscriber->rest, left);
    memcpy(subscriber->rest, buffer + at, left);
  } else if (kept) {
    free(subscriber->rest);
    subscriber->rest = NULL;
  }
  subscriber->rest_length = left;
}

static void on_ready(Source *source, uint32_t events) {
  Subscriber *subscriber = (Subscriber *)source;
  if (subscriber->state == GONE) return;
  if (subscriber->state == CONNECTING) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(subscriber->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
      lost(subscriber);
      return;
    }
    static char head[1 << 16];
    write_all(subscriber, head, render(&dialect.head, subscriber, head));
    subscriber->state = SHAKING;
    watch(source, subscriber->fd, EPOLLIN, true);
    return;
  }
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_some(subscriber);
}

static void begin(Subscriber *subscriber, int source_address) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  /* An address of its own per wave: ports that wait for their end are not in the way. */
  setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  struct sockaddr_in from = {.sin_family = AF_INET};
  from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)source_address);
  if (bind(fd, (struct sockaddr *)&from, sizeof from)) fail("bind");
  if (connect(fd, (struct sockaddr *)&target_clients, sizeof target_clients) &&
      errno != EINPROGRESS)
    fail("connect");
  char position[POSITION];
  memcpy(position, subscriber->position, POSITION);
  *subscriber = (Subscriber){
      .source = {on_ready}, .fd = fd, .state = CONNECTING, .last = subscriber->last};
  memcpy(subscriber->position, position, POSITION);
  shaking++;
  watch(&subscriber->source, fd, EPOLLOUT, false);
}

void subscribers_connect(int count, int window, int source_address, int need, double seconds) {
  if (!subscribers) {
    subscribers = calloc((size_t)user_count, sizeof *subscribers);
    if (!subscribers) fail("memory");
  }
  int first = open_count ? subscriber_count : 0;
  if (first + count > user_count) fail("more connections than users");
  subscriber_count = first + count;
  uint64_t deadline = now() + (uint64_t)(seconds * 1e9);
  int begun = 0, lost_before = closed_early;
  complete = 0;
  wanted_marks = need;
  while (complete < count && now() < deadline && closed_early == lost_before) {
    while (begun < count && shaking < window) begin(&subscribers[first + begun++], source_address);
    turn_loop(now() + 100000000);
  }
}

bool listens(int user) { return user < subscriber_count && subscribers[user].state == OPEN; }

void subscribers_drop(void) {
  for (int i = 0; i < subscriber_count; i++) shut(&subscribers[i], true);
}

void subscribers_reset(void) {
  for (int i = 0; i < subscriber_count; i++) subscribers[i].last = subscribers[i].marks = 0;
  for (int i = 0; i < user_count; i++) users[i].sent = 0;
  sent_to_all = 0;
  delivered = misordered = skipped = received_bytes = pings = 0;
  delivery.count = 0;
  closed_early = 0;
}
