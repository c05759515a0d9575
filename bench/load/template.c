#include "load.h"

#include <stdlib.h>
#include <string.h>

static const struct {
  const char *text;
  Kind kind;
} names[] = {
    {"{user}", THE_USER},         {"{same}", THE_SAME}, {"{token}", THE_TOKEN},
    {"{position}", THE_POSITION}, {"{mark}", THE_MARK},
};

static void add(Template *template, Kind kind, const char *text, size_t length) {
  template->parts = realloc(template->parts, sizeof(Part) * (size_t)(template->count + 1));
  template->parts[template->count++] = (Part){kind, text, length};
}

void template_parse(Template *template, char *source, size_t length) {
  free(template->source);
  free(template->parts);
  *template = (Template){.source = source, .length = length};
  const char *from = source, *end = source + length;
  for (const char *at = source; at < end;) {
    size_t found = 0;
    if (*at == '{') {
      for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size = strlen(names[i].text);
        if ((size_t)(end - at) >= size && memcmp(at, names[i].text, size) == 0) {
          if (at > from) add(template, LITERAL, from, (size_t)(at - from));
          add(template, names[i].kind, at, size);
          template->marks += names[i].kind == THE_MARK;
          template->addresses |= names[i].kind == THE_USER;
          found = size;
          break;
        }
      }
    }
    at += found ? found : 1;
    if (found) from = at;
  }
  if (end > from) add(template, LITERAL, from, (size_t)(end - from));
}

/* @ 8 digits @ 21 digits @@ */
void write_mark(char *out, uint32_t sequence, uint64_t nanoseconds) {
  memset(out, '0', MARK);
  out[0] = out[9] = out[31] = out[32] = '@';
  for (char *at = out + 8; sequence; sequence /= 10) *at-- = (char)('0' + sequence % 10);
  for (char *at = out + 30; nanoseconds; nanoseconds /= 10)
    *at-- = (char)('0' + nanoseconds % 10);
}
