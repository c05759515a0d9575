/** Positions that outlive the page. */

import type { Clock } from "./clock.js";
import { fromRecord, toRecord, type Position, type Positions } from "./position.js";

/** The part of `localStorage` that is used. */
export interface StorageLike {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** Milliseconds in which changes are gathered: each write is a blocking call. */
const GATHER = 200;

export class PositionStore {
  readonly #storage: StorageLike;
  readonly #key: string;
  readonly #clock: Clock;
  readonly #positions: () => ReadonlyMap<string, Position>;
  readonly #failed: (cause: unknown) => void;
  #cancel: (() => void) | undefined;

  /** `failed`: told of the first failure after a success. */
  constructor(
    storage: StorageLike,
    key: string,
    clock: Clock,
    positions: () => ReadonlyMap<string, Position>,
    failed: (cause: unknown) => void,
  ) {
    this.#storage = storage;
    this.#key = key;
    this.#clock = clock;
    this.#positions = positions;
    this.#failed = failed;
  }

  /** What was stored; what cannot be read counts as nothing. */
  load(): Positions {
    try {
      return fromRecord(JSON.parse(this.#storage.getItem(this.#key) ?? "{}"));
    } catch {
      return new Map();
    }
  }

  /** The positions have changed: store them soon. */
  changed(): void {
    this.#cancel ??= this.#clock.after(GATHER, () => this.flush());
  }

  /** Store what has changed, now. */
  flush(): void {
    if (!this.#cancel) return;
    this.#cancel();
    this.#cancel = undefined;
    try {
      this.#storage.setItem(this.#key, JSON.stringify(toRecord(this.#positions())));
    } catch (cause) {
      this.#failed(cause);
    }
  }
}
