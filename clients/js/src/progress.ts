/** How far the application has come: positions whose events, and all before them, are dealt with. */

import type { Position, Positions } from "./position.js";

interface Step {
  position: Position;
  done: boolean;
}

export class Progress {
  readonly #settled: Positions = new Map();
  /** By channel, in order; the first is not done. */
  readonly #steps = new Map<string, Step[]>();
  readonly #onChange: () => void;

  constructor(onChange: () => void) {
    this.#onChange = onChange;
  }

  get positions(): ReadonlyMap<string, Position> {
    return this.#settled;
  }

  /** The application was given what is at this position; it is dealt with when `pending` is settled. */
  take(channel: string, position: Position, pending: Promise<unknown> | undefined): void {
    const steps = this.#steps.get(channel);
    if (!pending && !steps) {
      this.#settle(channel, position);
      return;
    }
    const last = steps?.at(-1);
    if (!pending && last?.done) {
      last.position = position; // so that little is kept where a handler never ends
      return;
    }
    const step: Step = { position, done: !pending };
    if (steps) steps.push(step);
    else this.#steps.set(channel, [step]);
    void pending?.then(() => {
      step.done = true;
      this.#advance(channel);
    });
  }

  /** Begin here. */
  set(channel: string, position: Position): void {
    this.#steps.delete(channel);
    this.#settle(channel, position);
  }

  forget(channel: string): void {
    this.#steps.delete(channel);
    if (this.#settled.delete(channel)) this.#onChange();
  }

  #advance(channel: string): void {
    const steps = this.#steps.get(channel);
    let last: Step | undefined;
    while (steps?.[0]?.done) last = steps.shift();
    if (!last) return;
    if (steps!.length === 0) this.#steps.delete(channel);
    this.#settle(channel, last.position);
  }

  #settle(channel: string, position: Position): void {
    this.#settled.set(channel, position);
    this.#onChange();
  }
}
