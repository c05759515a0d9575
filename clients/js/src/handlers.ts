/** Functions that the application wants called. */

/** Takes back what was registered; a second call does nothing. */
export type Unsubscribe = () => void;

/** Told of something that a handler threw, or that its promise was rejected with. */
export type Blame = (cause: unknown) => void;

/** Handlers of one kind, called in the order in which they were added. */
export class Handlers<T> {
  /** Replaced, not changed: a handler may add and remove while they are called. */
  #all: readonly { handler: (value: T) => unknown }[] = [];

  get empty(): boolean {
    return this.#all.length === 0;
  }

  /** Adding a function twice has it called twice. */
  add(handler: (value: T) => unknown): Unsubscribe {
    if (typeof handler !== "function") throw new TypeError("A handler is a function");
    const entry = { handler };
    this.#all = [...this.#all, entry];
    return () => {
      this.#all = this.#all.filter((other) => other !== entry);
    };
  }

  /**
   * Calls all of them, also where one throws. Where some gave promises, gives back one that is
   * fulfilled when all of those are settled.
   */
  call(value: T, blame: Blame): Promise<unknown> | undefined {
    let pending: Promise<unknown>[] | undefined;
    for (const { handler } of this.#all) {
      try {
        const result = handler(value);
        if (isThenable(result)) (pending ??= []).push(Promise.resolve(result).catch(blame));
      } catch (cause) {
        blame(cause);
      }
    }
    return pending && Promise.all(pending);
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | undefined)?.then === "function";
}
