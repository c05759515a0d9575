/** How long to wait before an attempt. */

/** A wait of between `least` and `most` seconds; the caller draws evenly between. */
export interface Wait {
  least: number;
  most: number;
}

/** The bound doubles from this, seconds. */
const FIRST = 0.25;
/** And grows no further than this. */
const LONGEST = 15;
/** A connection that lasted so many seconds was a good one: backoff begins anew. */
export const STABLE = 5;

/** Full jitter: attempt n, counted from 0, waits between nothing and a bound that doubles. */
export function backoff(attempt: number): Wait {
  return { least: 0, most: Math.min(LONGEST, FIRST * 2 ** attempt) };
}

/** One of the waits, in milliseconds; `random` gives from 0 to 1. */
export function draw(wait: Wait, random: () => number): number {
  return (wait.least + random() * (wait.most - wait.least)) * 1000;
}
