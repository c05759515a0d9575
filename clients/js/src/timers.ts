/** Named timers: starting one replaces it, and all can be stopped at once. */

import type { Clock } from "./clock.js";

export class Timers<Name extends string> {
  readonly #clock: Clock;
  readonly #cancels = new Map<Name, () => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Calls `then` after so many milliseconds. */
  start(name: Name, milliseconds: number, then: () => void): void {
    this.stop(name);
    const cancel = this.#clock.after(milliseconds, () => {
      this.#cancels.delete(name);
      then();
    });
    this.#cancels.set(name, cancel);
  }

  stop(name: Name): void {
    this.#cancels.get(name)?.();
    this.#cancels.delete(name);
  }

  stopAll(): void {
    for (const cancel of this.#cancels.values()) cancel();
    this.#cancels.clear();
  }
}
