/**
 * What one page has had: drops what comes twice, and keeps the positions of what the application
 * has dealt with.
 *
 * A page that shares a connection may be behind or ahead of it. So each message comes with the
 * place that it follows, and a page that is not yet there has missed something.
 */

import type { ErrorMessage, EventMessage, GapMessage, ServerMessage } from "./messages.js";
import { isBeginning, isLater, parsePosition, type Position, type Positions } from "./position.js";
import { Progress } from "./progress.js";

/** The application's side. Both may give a promise: what was given is dealt with when it is settled. */
export interface Application {
  event(message: EventMessage): Promise<unknown> | undefined;
  gap(message: GapMessage): Promise<unknown> | undefined;
  error(message: ErrorMessage): void;
}

export class Inbox {
  readonly #application: Application;
  readonly #held: Positions = new Map();
  readonly #progress: Progress;

  /** `onChange`: called whenever `settled` is another. */
  constructor(application: Application, onChange: () => void) {
    this.#application = application;
    this.#progress = new Progress(onChange);
  }

  /** The last position of each channel that the application was given. */
  get held(): ReadonlyMap<string, Position> {
    return this.#held;
  }

  /** The last position of each channel that it has dealt with, and with all before it. */
  get settled(): ReadonlyMap<string, Position> {
    return this.#progress.positions;
  }

  /** Begin here in the channels where nothing is held. */
  begin(positions: Iterable<readonly [string, Position]>): void {
    for (const [channel, position] of positions) {
      if (!this.#held.has(channel)) this.set(channel, position);
    }
  }

  set(channel: string, position: Position): void {
    this.#held.set(channel, position);
    this.#progress.set(channel, position);
  }

  forget(channel: string): void {
    this.#held.delete(channel);
    this.#progress.forget(channel);
  }

  /**
   * Takes a message that follows `after` in its channel; undefined where only what is to be taken
   * is given. False where something before it was missed: then it is not taken.
   */
  take(message: ServerMessage, after: Position | undefined): boolean {
    switch (message.type) {
      case "welcome":
        for (const [channel, joined] of Object.entries(message.channels ?? {})) {
          this.#join(channel, joined?.position);
        }
        return true;
      case "subscribed":
        this.#join(message.channel, message.position);
        return true;
      case "unsubscribed":
        this.forget(message.channel);
        return true;
      case "error":
        this.#application.error(message);
        return true;
      case "event":
        return this.#event(message, after);
      case "gap":
        this.#gap(message, after);
        return true;
      default:
        return true;
    }
  }

  #join(channel: string, text: unknown): void {
    const position = parsePosition(text);
    const held = this.#held.get(channel);
    // 0-0 asked for everything; from here on only what comes after this can be missed.
    if (position && (!held || isBeginning(held))) this.set(channel, position);
  }

  #event(message: EventMessage, after: Position | undefined): boolean {
    const { channel } = message;
    const id = parsePosition(message.id)!;
    const held = this.#held.get(channel);
    if (held && after) {
      if (held.epoch !== after.epoch || isLater(after, held)) return false;
      if (!isLater(id, held)) return true;
    }
    this.#held.set(channel, id);
    this.#progress.take(channel, id, this.#application.event(message));
    return true;
  }

  #gap(message: GapMessage, after: Position | undefined): void {
    const { channel } = message;
    const to = parsePosition(message.to)!;
    const held = this.#held.get(channel);
    if (held && after && held.text !== message.from) {
      // A page that is ahead of the connection may have had all that this gap is about.
      if (held.epoch === to.epoch && !isLater(to, held)) return;
      message = { ...message, from: held.text };
    }
    this.#held.set(channel, to);
    this.#progress.take(channel, to, this.#application.gap(message));
  }
}
