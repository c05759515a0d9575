/**
 * Which transport to try: WebSockets, and server-sent events where a network blocks those.
 *
 * A transport is held to be blocked where it did not reach the server twice in a row. From then on
 * an attempt that fails with the first goes on with the second at once: where the server is down
 * both fail, so only where it is up, and the first alone fails, the second is kept to. It is kept
 * for some minutes, then the first is tried again.
 */

import type { TransportName } from "./link.js";

/** So many attempts in a row that did not reach the server. */
const BLOCKED = 2;
/** Milliseconds before the first transport is tried again; doubles each time it fails again. */
const KEEP = 5 * 60_000;
const KEEP_LONGEST = 60 * 60_000;

export class Ladder {
  readonly first: TransportName;
  readonly #second: TransportName | undefined;
  #failures = 0;
  #keep = KEEP;
  /** The second is kept to until then; 0: it is not. */
  #until = 0;

  constructor(transports: readonly [TransportName, TransportName | undefined]) {
    [this.first, this.#second] = transports;
  }

  /** What to begin an attempt with, at `now` (milliseconds). */
  begin(now: number): TransportName {
    return this.#second && now < this.#until ? this.#second : this.first;
  }

  /** An attempt did not reach the server; gives back what to try at once, if anything. */
  failed(transport: TransportName): TransportName | undefined {
    if (transport !== this.first) {
      this.#until = 0;
      return undefined;
    }
    this.#failures++;
    return this.#failures >= BLOCKED ? this.#second : undefined;
  }

  /**
   * The server was reached, at `now`. Gives back after how many milliseconds to look whether the
   * first transport works again; undefined where it does.
   */
  reached(transport: TransportName, now: number): number | undefined {
    if (transport === this.first) {
      this.#failures = 0;
      this.#keep = KEEP;
      this.#until = 0;
      return undefined;
    }
    if (now >= this.#until) this.#until = now + this.#keep;
    return this.#until - now;
  }

  /** The first transport was looked at, at `now`, and is still blocked. As `reached`. */
  stillBlocked(now: number): number {
    this.#keep = Math.min(this.#keep * 2, KEEP_LONGEST);
    this.#until = now + this.#keep;
    return this.#keep;
  }
}
