/** What a transport is: the port that `websocket.ts` and `sse.ts` implement. */

import { isMessage, type ClientMessage, type ServerMessage } from "./messages.js";
import type { Position } from "./position.js";

export type TransportName = "websocket" | "sse";

/** What a link tells, from the moment on that `open` has returned, and not after `close`. */
export interface LinkListener {
  /** It can send. */
  opened(): void;
  /** Something came, if only a sign of life. */
  heard(): void;
  /** The server said this. */
  said(message: ServerMessage): void;
  /** The server said something that is no message. */
  babbled(text: string): void;
  /** It has ended, or could not be opened: the last that is told. */
  closed(code: number, reason: string): void;
}

/** One connection. */
export interface Link {
  send(message: ClientMessage): void;
  /** End it: nothing is told any more. `dead`: there is nobody to say goodbye to. */
  close(dead?: boolean): void;
  /**
   * Find out soon whether the server is there: `heard` is called where it is.
   * False where that cannot be asked.
   */
  probe(): boolean;
}

/** What is to be asked for. */
export interface Wanted {
  readonly topics: ReadonlySet<string>;
  /** By channel, the last one. */
  readonly positions: ReadonlyMap<string, Position>;
}

/** Opens links of one kind. */
export type OpenLink = (listener: LinkListener) => Link;

/** Reads a message; undefined where it is none, or lacks what its type must have. */
export function readMessage(
  text: unknown,
  parse: (text: string) => unknown,
): ServerMessage | undefined {
  try {
    const message = typeof text === "string" ? parse(text) : undefined;
    if (isMessage(message)) return message;
  } catch {
    // Not JSON.
  }
  return undefined;
}
