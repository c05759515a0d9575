/** What `connect` takes. */

import type { TransportName } from "./link.js";
import { isChannel, isTopic } from "./messages.js";
import { fromRecord, type Positions } from "./position.js";
import type { StorageLike } from "./storage.js";
import { checkToken, type TokenSource } from "./token.js";
import type { WebSocketClass } from "./websocket.js";

export interface HeraldOptions {
  /**
   * The user's JWT, or a function that gives one, at once or as a promise: called before the first
   * attempt, before a token expires, and when one was refused. null: nobody is logged in, and the
   * connection is closed. It throws where it fails, and is asked again later; `undefined` counts as
   * that. Left out: the cookie `herald_token` speaks for the user.
   */
  token?: TokenSource;
  /** Topics to join beside those that the token names. */
  topics?: readonly string[];
  /** Where to resume, by channel; left out: what is published from now on. */
  positions?: Readonly<Record<string, string>>;
  /** Keeps positions beyond the page: `"local"` is `localStorage`. */
  storage?: "local" | StorageLike;
  /** One connection for all tabs of this origin and user. Default false. */
  shared?: boolean;
  /** Which transports to use, the preferred one first. Default `["websocket", "sse"]`. */
  transports?: readonly TransportName[];
  /** A class of WebSockets where the machine has none, as in Node 20: that of the package `ws`. */
  WebSocket?: WebSocketClass;
  /** Default: the machine's own. */
  fetch?: typeof fetch;
  /** Who the user is, where `storage` or `shared` must know and the token is no JWT that says so. */
  user?: string;
  /** How many events wait for a slow `for await` loop before it fails. Default 1000. */
  buffer?: number;
  /** Milliseconds in which a connection must be made. Default 15,000. */
  timeout?: number;
  /** Reads JSON; one that keeps big integers, say. Default `JSON.parse`. */
  parse?: (text: string) => unknown;
}

/** Options that are complete, and checked in form. */
export interface Settings {
  token: TokenSource | undefined;
  topics: string[];
  positions: Positions;
  storage: HeraldOptions["storage"];
  shared: boolean;
  /** The preferred one, and another. */
  transports: [TransportName, TransportName | undefined];
  user: string | undefined;
  buffer: number;
  timeout: number;
  parse: (text: string) => unknown;
}

const NAMES = Object.keys({
  token: 0,
  topics: 0,
  positions: 0,
  storage: 0,
  shared: 0,
  transports: 0,
  WebSocket: 0,
  fetch: 0,
  user: 0,
  buffer: 0,
  timeout: 0,
  parse: 0,
} satisfies Record<keyof HeraldOptions, 0>);
const TRANSPORTS: readonly TransportName[] = ["websocket", "sse"];

/** Throws where a topic can have no such name. */
export function checkTopic(name: unknown): string {
  if (isTopic(name)) return name;
  const form = "1 to 200 of A-Z a-z 0-9 . _ : @ / -";
  throw new TypeError(`Not a topic's name: ${JSON.stringify(name)} (${form})`);
}

/**
 * Fills in what was left out. `possible`: what this machine can do.
 *
 * @throws {TypeError} for options that cannot be.
 * @throws {Error} where no transport is left.
 */
export function complete(options: HeraldOptions, possible: Record<TransportName, boolean>): Settings {
  checkNames(options);
  const { token, storage } = options;
  return {
    token: token === undefined || typeof token === "function" ? token : checkToken(token),
    topics: [...new Set(checkList("topics", options.topics))].map(checkTopic),
    positions: checkChannels(fromRecord(options.positions)),
    storage: checkStorage(storage),
    shared: options.shared ?? false,
    transports: chooseTransports(checkList("transports", options.transports), possible),
    user: options.user,
    buffer: checkNumber("buffer", options.buffer ?? 1000),
    timeout: checkNumber("timeout", options.timeout ?? 15_000),
    parse: options.parse ?? JSON.parse,
  };
}

/** What was misspelt would be passed over in silence. */
function checkNames(options: HeraldOptions): void {
  if (typeof options !== "object" || options === null) throw new TypeError("The options are an object, as { token }");
  for (const name of Object.keys(options)) {
    if (NAMES.includes(name)) continue;
    const far = (known: string): number => distance(name.toLowerCase(), known.toLowerCase());
    const near = NAMES.reduce((best, known) => (far(known) < far(best) ? known : best));
    const hint = far(near) < Math.min(3, name.length - 1) ? `: did you mean ${near}?` : "";
    throw new TypeError(`connect has no option ${name}${hint}`);
  }
}

/** How many letters must be put in, taken out or replaced to make one word of the other. */
function distance(word: string, other: string): number {
  let row = [...Array(other.length + 1).keys()];
  for (const [number, letter] of [...word].entries()) {
    const next = [number + 1];
    for (let at = 0; at < other.length; at++) {
      next.push(Math.min(row[at]! + +(letter !== other[at]), row[at + 1]! + 1, next[at]! + 1));
    }
    row = next;
  }
  return row.at(-1)!;
}

function checkNumber(name: string, value: number): number {
  if (value > 0) return value;
  throw new TypeError(`The option ${name} is a number above 0, not ${value}`);
}

/** The server would refuse all that is asked for, again and again. */
function checkChannels(positions: Positions): Positions {
  for (const name of positions.keys()) {
    if (isChannel(name)) continue;
    throw new TypeError(`Not a channel: ${JSON.stringify(name)} (as user:alice, topic:news or all)`);
  }
  return positions;
}

/** A text would be taken for a list of letters. */
function checkList<T>(name: string, list: readonly T[] | undefined): readonly T[] | undefined {
  if (list === undefined || Array.isArray(list)) return list;
  throw new TypeError(`The option ${name} is a list, not ${JSON.stringify(list)}`);
}

function checkStorage(storage: HeraldOptions["storage"]): HeraldOptions["storage"] {
  const isOne = storage === undefined || storage === "local" || typeof storage?.setItem === "function";
  if (isOne) return storage;
  throw new TypeError('The option storage is "local", or an object like localStorage');
}

function chooseTransports(
  wanted: readonly TransportName[] | undefined,
  possible: Record<TransportName, boolean>,
): Settings["transports"] {
  const unknown = wanted?.find((name) => !TRANSPORTS.includes(name));
  if (unknown !== undefined || wanted?.length === 0) {
    const given = JSON.stringify(wanted);
    throw new TypeError(`The option transports is a list of "websocket" and "sse", not ${given}`);
  }
  const [first, second] = [...new Set(wanted ?? TRANSPORTS)].filter((name) => possible[name]);
  if (first) return [first, second];
  throw new Error(
    "There is no WebSocket here (Node has one from version 22 on): pass one, as in " +
      'connect(url, { WebSocket }) with `import WebSocket from "ws"`, or allow the transport "sse", ' +
      "which needs `fetch`.",
  );
}
