#include "load.h"

#include <stdlib.h>

void samples_add(Samples *samples, uint64_t nanoseconds) {
  if (samples->count == samples->room) {
    samples->room = samples->room ? samples->room * 2 : 1 << 16;
    samples->values = realloc(samples->values, samples->room * sizeof *samples->values);
    if (!samples->values) fail("memory for latencies");
  }
  uint64_t tenths = nanoseconds / 100;
  samples->values[samples->count++] = tenths > UINT32_MAX ? UINT32_MAX : (uint32_t)tenths;
}

static int compare(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static double at(const Samples *samples, double share) {
  size_t index = (size_t)(share * (double)samples->count);
  if (index >= samples->count) index = samples->count - 1;
  return samples->values[index] / 1e4; /* milliseconds */
}

void samples_print(Samples *samples, const char *name) {
  if (!samples->count) return;
  qsort(samples->values, samples->count, sizeof *samples->values, compare);
  printf(",\"%s\":{\"count\":%zu,\"p50\":%.4f,\"p90\":%.4f,\"p99\":%.4f,\"p999\":%.4f,\"max\":%.4f}",
         name, samples->count, at(samples, 0.5), at(samples, 0.9), at(samples, 0.99),
         at(samples, 0.999), at(samples, 1.0));
  samples->count = 0;
}
