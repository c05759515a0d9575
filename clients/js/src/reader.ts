/**
 * `for await (const event of herald)`: a bounded queue between the events and one loop.
 *
 * The rule: up to `limit` events wait for the loop. Where one more comes, the loop gets those that
 * wait and then throws `HeraldError` `overflow`; it gets no more. An event is dealt with when the
 * loop asks for the next one, or is left.
 */

import { HeraldError } from "./errors.js";

interface Item<T> {
  value: T;
  done: () => void;
}

interface Waiter<T> {
  resolve(result: IteratorResult<T, undefined>): void;
  reject(error: unknown): void;
}

export class Reader<T> implements AsyncIterableIterator<T, undefined> {
  readonly #limit: number;
  readonly #onEnd: () => void;
  #queue: Item<T>[] = [];
  #waiters: Waiter<T>[] = [];
  /** Tells that the event that the loop has now was dealt with. */
  #done: (() => void) | undefined;
  #ended = false;
  #failure: HeraldError | undefined;

  /** `onEnd`: called once, when nothing must be pushed any more. */
  constructor(limit: number, onEnd: () => void) {
    this.#limit = limit;
    this.#onEnd = onEnd;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Gives it an event; the promise is fulfilled when that was dealt with. */
  push(value: T): Promise<void> | undefined {
    if (this.#ended) return undefined;
    if (this.#queue.length >= this.#limit) {
      const message = `The loop was too slow: ${this.#limit} events waited for it`;
      this.#failure = new HeraldError("overflow", message);
      this.end();
      return undefined;
    }
    return new Promise((done) => {
      this.#queue.push({ value, done });
      this.#serve();
    });
  }

  next(): Promise<IteratorResult<T, undefined>> {
    this.#done?.();
    this.#done = undefined;
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject });
      this.#serve();
    });
  }

  /** The loop was left. */
  return(): Promise<IteratorResult<T, undefined>> {
    this.#failure = undefined;
    for (const { done } of this.#queue) done();
    this.#queue = [];
    this.#done?.();
    this.#done = undefined;
    this.end();
    return Promise.resolve({ done: true, value: undefined });
  }

  /** No event follows those that wait; `now`: nor are those given, and they are not dealt with. */
  end(now = false): void {
    if (now) this.#queue = [];
    if (!this.#ended) {
      this.#ended = true;
      this.#onEnd();
    }
    this.#serve();
  }

  #serve(): void {
    while (this.#waiters.length && (this.#queue.length || this.#ended)) {
      const waiter = this.#waiters.shift()!;
      const item = this.#queue.shift();
      if (item) {
        // Two calls of `next` at once: the event before counts as dealt with.
        this.#done?.();
        this.#done = item.done;
        waiter.resolve({ done: false, value: item.value });
      } else if (this.#failure) {
        waiter.reject(this.#failure);
        this.#failure = undefined;
      } else {
        waiter.resolve({ done: true, value: undefined });
      }
    }
  }
}
