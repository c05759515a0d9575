#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ANSWER = 1 << 20 };

/* An event that was due while its connection waited for an answer. */
typedef struct {
  uint64_t due;
  int user;
} Due;

typedef struct {
  Source source;
  int fd, index;
  bool busy;
  uint64_t asked; /* when the request that is not answered yet was due */
  int cursor;     /* the next of this connection's own users: its events keep their order */
  char *answer;
  size_t length;
  Due *queue; /* a ring */
  size_t first, waiting, room;
} Publisher;

Template post;

static Publisher *publishers;
static int publisher_count;
static Samples answers;
static uint64_t posts_sent, posts_answered, refused, expected, events_sent;
static bool closed_loop;
static uint64_t stop_at;
static long posts_left;
static char request[1 << 24];

static int next_user(Publisher *publisher) {
  int user = publisher->cursor;
  publisher->cursor += publisher_count;
  if (publisher->cursor >= user_count) publisher->cursor = publisher->index;
  return user;
}

/* The request for one POST, due at `due`; `user` is the first one that it addresses. */
static size_t render(Publisher *publisher, uint64_t due, int user) {
  char *at = request;
  int current = -1;
  for (int i = 0; i < post.count; i++) {
    const Part *part = &post.parts[i];
    if (part->kind == THE_USER) {
      current = current < 0 ? user : next_user(publisher);
      memcpy(at, users[current].name, USER), at += USER;
    } else if (part->kind == THE_SAME) {
      memcpy(at, users[current].name, USER), at += USER;
    } else if (part->kind == THE_MARK) {
      write_mark(at, current < 0 ? ++sent_to_all : ++users[current].sent, due), at += MARK;
      expected += current < 0 ? (uint64_t)open_count : (uint64_t)listens(current);
      events_sent++;
    } else {
      memcpy(at, part->text, part->length), at += part->length;
    }
  }
  return (size_t)(at - request);
}

static void send_request(Publisher *publisher, uint64_t due, int user) {
  size_t length = render(publisher, due, user), at = 0;
  while (at < length) {
    ssize_t sent = send(publisher->fd, request + at, length - at, MSG_NOSIGNAL);
    if (sent > 0) at += (size_t)sent;
    else if (errno == EAGAIN) turn_loop(now() + 100000); /* a large body: read meanwhile */
    else fail("the publish port closed the connection");
  }
  publisher->busy = true;
  publisher->asked = due;
  posts_sent++;
}

static void next_request(Publisher *publisher) {
  if (publisher->waiting) {
    Due due = publisher->queue[publisher->first];
    publisher->first = (publisher->first + 1) % publisher->room;
    publisher->waiting--;
    send_request(publisher, due.due, due.user);
  } else if (closed_loop && posts_left && now() < stop_at) {
    posts_left--;
    send_request(publisher, now(), next_user(publisher));
  }
}

/* The length of the whole answer, or 0 while it is not all there. */
static size_t answer_length(const char *answer, size_t length) {
  const char *end = memmem(answer, length, "\r\n\r\n", 4);
  if (!end) return 0;
  size_t head = (size_t)(end + 4 - answer);
  for (const char *at = answer; at < end; at++) {
    at = memchr(at, '\n', (size_t)(end - at));
    if (!at) break;
    if (strncasecmp(at + 1, "content-length:", 15) == 0) {
      size_t whole = head + strtoul(at + 16, NULL, 10);
      return length >= whole ? whole : 0;
    }
    if (strncasecmp(at + 1, "transfer-encoding: chunked", 26) == 0) {
      const char *last = memmem(answer + head, length - head, "0\r\n\r\n", 5);
      return last ? (size_t)(last + 5 - answer) : 0;
    }
  }
  return head;
}

static void on_answer(Source *source, uint32_t events) {
  (void)events;
  Publisher *publisher = (Publisher *)source;
  ssize_t got = recv(publisher->fd, publisher->answer + publisher->length,
                     ANSWER - publisher->length, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    if (publisher->busy) fail("the publish port closed the connection");
    epoll_ctl(epoll, EPOLL_CTL_DEL, publisher->fd, NULL);
    return;
  }
  publisher->length += (size_t)got;
  size_t whole = answer_length(publisher->answer, publisher->length);
  if (!whole) return;
  if (publisher->answer[9] != '2') {
    static int told;
    refused++;
    if (told++ < 3)
      fprintf(stderr, "publish refused: %.*s\n", (int)(whole < 600 ? whole : 600),
              publisher->answer);
  }
  publisher->length -= whole;
  memmove(publisher->answer, publisher->answer + whole, publisher->length);
  posts_answered++;
  uint64_t at = now();
  samples_add(&answers, at > publisher->asked ? at - publisher->asked : 0);
  publisher->busy = false;
  next_request(publisher);
}

static int open_socket(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  if (connect(fd, (struct sockaddr *)&target_publish, sizeof target_publish))
    fail("connect to the publish port");
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

static void open_publishers(int count) {
  publishers = calloc((size_t)count, sizeof *publishers);
  publisher_count = count;
  posts_sent = posts_answered = refused = expected = events_sent = 0;
  answers.count = 0;
  for (int i = 0; i < count; i++) {
    int fd = open_socket();
    if (fcntl(fd, F_SETFL, O_NONBLOCK)) fail("fcntl");
    publishers[i] = (Publisher){.source = {on_answer}, .fd = fd, .index = i, .cursor = i};
    publishers[i].answer = malloc(ANSWER);
    watch(&publishers[i].source, fd, EPOLLIN, false);
  }
}

static void close_publishers(void) {
  for (int i = 0; i < publisher_count; i++) {
    close(publishers[i].fd);
    free(publishers[i].answer);
    free(publishers[i].queue);
  }
  free(publishers);
  publishers = NULL;
  publisher_count = 0;
}

/* Wait until all is answered and delivered (there were `before`), or nothing has come for so long. */
static bool settle(uint64_t before, double patience) {
  uint64_t seen = ~0ull, since = now();
  while (posts_answered < posts_sent || delivered < before + expected) {
    if (delivered + posts_answered != seen) {
      seen = delivered + posts_answered;
      since = now();
    } else if (now() - since > (uint64_t)(patience * 1e9)) {
      return false;
    }
    turn_loop(now() + 20000000);
  }
  return true;
}

static void report(double seconds, double all_seconds, double cpu) {
  printf("{\"seconds\":%.6f,\"all_seconds\":%.6f,\"posts\":%lu,\"refused\":%lu,\"events\":%lu,"
         "\"expected\":%lu,\"delivered\":%lu,\"misordered\":%lu,\"skipped\":%lu,"
         "\"received_bytes\":%lu,\"load_cpu\":%.4f,\"open\":%d",
         seconds, all_seconds, posts_answered, refused, events_sent, expected, delivered,
         misordered, skipped, received_bytes, cpu, open_count);
  samples_print(&answers, "answer_ms");
  samples_print(&delivery, "delivery_ms");
}

void publish_closed(int connections, double seconds, long posts) {
  open_publishers(connections);
  uint64_t before = delivered, began = now();
  double cpu = cpu_seconds();
  closed_loop = true;
  posts_left = posts ? posts : INT64_MAX;
  stop_at = began + (uint64_t)(seconds * 1e9);
  for (int i = 0; i < connections; i++) next_request(&publishers[i]);
  while (posts_answered < posts_sent) turn_loop(now() + 20000000);
  double answered = (double)(now() - began) / 1e9;
  settle(before, 5);
  report(answered, (double)(now() - began) / 1e9, cpu_seconds() - cpu);
  printf("}\n");
  closed_loop = false;
  close_publishers();
}

static void enqueue(Publisher *publisher, Due due) {
  if (publisher->waiting == publisher->room) {
    size_t room = publisher->room ? publisher->room * 2 : 64;
    Due *queue = malloc(room * sizeof *queue);
    for (size_t i = 0; i < publisher->waiting; i++)
      queue[i] = publisher->queue[(publisher->first + i) % publisher->room];
    free(publisher->queue);
    publisher->queue = queue;
    publisher->room = room;
    publisher->first = 0;
  }
  publisher->queue[(publisher->first + publisher->waiting++) % publisher->room] = due;
}

void publish_open(int connections, double rate, double seconds) {
  open_publishers(connections);
  uint64_t before = delivered, began = now() + 1000000;
  double cpu = cpu_seconds();
  long total = (long)(rate * seconds);
  uint32_t random = 2463534242u;
  for (long i = 0; i < total;) {
    uint64_t due = began + (uint64_t)((double)i * 1e9 / rate);
    if (now() < due) {
      turn_loop(due);
      continue;
    }
    random ^= random << 13, random ^= random >> 17, random ^= random << 5;
    Publisher *publisher = &publishers[random % (uint32_t)connections];
    int own = user_count / connections; /* users of each connection */
    int user = publisher->index + connections * (int)((random >> 8) % (uint32_t)own);
    if (publisher->busy) enqueue(publisher, (Due){due, user});
    else send_request(publisher, due, user);
    if (++i % 16 == 0) turn_loop(now()); /* when late, what arrives is read all the same */
  }
  double offered = (double)(now() - began) / 1e9;
  settle(before, 5);
  report(offered, (double)(now() - began) / 1e9, cpu_seconds() - cpu);
  printf(",\"rate\":%.1f}\n", rate);
  close_publishers();
}

void publish_lockstep(int rounds, int posts, double patience) {
  open_publishers(1);
  double *each = calloc((size_t)rounds, sizeof *each), cpu = cpu_seconds();
  uint64_t before = delivered, began = now();
  closed_loop = true;
  stop_at = ~0ull;
  int done = 0;
  while (done < rounds) {
    uint64_t from = now();
    posts_left = posts;
    next_request(&publishers[0]); /* each answer sends the next one */
    if (!settle(before, patience)) break;
    each[done++] = (double)(now() - from) / 1e9;
  }
  double seconds = (double)(now() - began) / 1e9;
  report(seconds, seconds, cpu_seconds() - cpu);
  printf(",\"rounds\":[");
  for (int i = 0; i < done; i++) printf("%s%.6f", i ? "," : "", each[i]);
  printf("]}\n");
  free(each);
  closed_loop = false;
  close_publishers();
}

/* What the engine alone does: `batch` (ready RESP, commands of one length) in parts of `depth`
 * commands, again and again. Every reply is an array of two, as the publish script's is. */
void engine_alone(const char *batch, size_t length, int parts, int depth, double seconds) {
  int fd = open_socket();
  uint64_t began = now(), replies = 0;
  size_t part = length / (size_t)parts, from = 0;
  static char input[1 << 20];
  while (now() - began < (uint64_t)(seconds * 1e9)) {
    for (size_t at = 0; at < part;) {
      ssize_t sent = send(fd, batch + from + at, part - at, MSG_NOSIGNAL);
      if (sent <= 0) fail("the engine closed the connection");
      at += (size_t)sent;
    }
    from = from + 2 * part > length ? 0 : from + part;
    for (int wanted = depth; wanted > 0;) {
      ssize_t got = recv(fd, input, sizeof input, 0);
      if (got <= 0) fail("the engine closed the connection");
      for (const char *at = input; (at = memchr(at, '*', (size_t)(input + got - at))); at++)
        wanted--;
      if (memchr(input, '-', 1)) fail(input);
    }
    replies += (uint64_t)depth;
  }
  printf("{\"seconds\":%.6f,\"replies\":%lu}\n", (double)(now() - began) / 1e9, replies);
  close(fd);
}
