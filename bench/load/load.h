/* The benchmark's load generator: many subscribers, a few publishers, one thread, one epoll.
 *
 * main.c         commands from standard input, answers as JSON lines, the loop
 * template.c     texts with placeholders
 * subscribers.c  WebSocket and SSE clients: opening, counting, order, latency
 * publishers.c   HTTP publishers: closed loop, open loop at a fixed rate, lockstep; the engine alone
 * samples.c      latencies, exact percentiles
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { MARK = 33, USER = 6, POSITION = 48 };

/* template.c */

typedef enum { LITERAL, THE_USER, THE_SAME, THE_TOKEN, THE_POSITION, THE_MARK } Kind;

typedef struct {
  Kind kind;
  const char *text;
  size_t length;
} Part;

typedef struct {
  char *source;
  size_t length;
  Part *parts;
  int count;
  int marks;
  bool addresses; /* has {user}: goes to one user; otherwise to everyone */
} Template;

void template_parse(Template *template, char *source, size_t length);
void write_mark(char *out, uint32_t sequence, uint64_t nanoseconds);

/* samples.c: latencies in units of 100 ns */

typedef struct {
  uint32_t *values;
  size_t count, room;
} Samples;

void samples_add(Samples *samples, uint64_t nanoseconds);
void samples_print(Samples *samples, const char *name); /* sorts them */

/* main.c */

typedef struct Source Source;
struct Source { /* whatever epoll watches begins with this */
  void (*ready)(Source *source, uint32_t events);
};

extern int epoll;
extern struct sockaddr_in target_clients, target_publish;
extern uint64_t turn; /* nanoseconds since 1970 at which this turn of the loop began */

uint64_t now(void);
double cpu_seconds(void); /* this process's */
void turn_loop(uint64_t until); /* one turn; waits at most until then (0: for ever) */
void watch(Source *source, int fd, uint32_t events, bool again);
void fail(const char *what) __attribute__((noreturn));

/* subscribers.c */

typedef struct {
  char name[USER + 1];
  char *token;
  uint32_t sent; /* the sequence number last sent to this user */
} User;

extern User *users;
extern int user_count;

typedef struct {
  Template head, say[8], expect[8], capture[2];
  int kinds[8]; /* of each step: 's' or 'e' */
  int steps;
  bool stream;
  char *ping, *pong;
  size_t ping_length, pong_length;
} Dialect;

extern Dialect dialect;
extern Samples delivery;
extern uint32_t sent_to_all;
extern uint64_t delivered, misordered, skipped, received_bytes, pings;
extern int open_count, closed_early;

/* Open `count` connections, `window` at a time; done once each has had `need` marks as well. */
void subscribers_connect(int count, int window, int source_address, int need, double seconds);
bool listens(int user);
void subscribers_drop(void);   /* reset every connection, as a crashed client does */
void subscribers_reset(void);  /* forget sequences and counts */

/* publishers.c */

extern Template post;
void publish_closed(int connections, double seconds, long posts);
void publish_open(int connections, double rate, double seconds);
void publish_lockstep(int rounds, int posts, double patience);
void engine_alone(const char *batch, size_t length, int parts, int depth, double seconds);

#endif
