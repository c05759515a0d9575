/** The client's face: what an application uses. */

import { Connection, type ConnectionOptions } from "./connection.js";
import { endpointsOf, type Endpoints } from "./endpoints.js";
import { thisMachine, type Environment } from "./environment.js";
import { HeraldError } from "./errors.js";
import type { Feed, State } from "./feed.js";
import { Handlers, type Unsubscribe } from "./handlers.js";
import { Inbox } from "./inbox.js";
import { Ladder } from "./ladder.js";
import type { Link } from "./link.js";
import { channelOf, type ErrorMessage, type EventMessage, type GapMessage, type ServerMessage } from "./messages.js";
import { checkTopic, complete, type HeraldOptions, type Settings } from "./options.js";
import { watchPage } from "./page.js";
import { parsePosition, toRecord, type Position } from "./position.js";
import { isFinal } from "./protocol.js";
import { Reader } from "./reader.js";
import { openStream } from "./sse.js";
import { PositionStore, type StorageLike } from "./storage.js";
import { Tabs } from "./tabs.js";
import type { Claims } from "./token.js";
import { openWebSocket } from "./websocket.js";

/** Something that was published. `T`: what its data is; nobody checks that. */
export interface HeraldEvent<T = unknown> {
  /** The publisher's type. */
  readonly type: string;
  readonly data: T;
  /** `user:<id>`, `topic:<name>` or `all`. */
  readonly channel: string;
  /** Its position in the channel: unique in it. */
  readonly id: string;
  /** When the server accepted it: RFC 3339. */
  readonly time: string;
}

/** Events of `channel` after `from` may be missing: load afresh what they would have told. */
export interface Gap {
  readonly channel: string;
  readonly from: string;
  /** What follows comes after this. */
  readonly to: string;
}

/** Every event, whatever its type. */
const ANY = "*";
const NOT_SUBSCRIBED = "not_subscribed";
/** Nothing that the application could do about: a position, or a wish, that changes nothing. */
const NO_MATTER = [NOT_SUBSCRIBED, "already_subscribed"];

/** A connection to Herald that mends itself. Made by `connect`. */
export class Herald implements AsyncIterable<HeraldEvent> {
  readonly #settings: Settings;
  readonly #environment: Environment;
  readonly #endpoints: Endpoints;
  readonly #feed: Feed;
  readonly #inbox: Inbox;
  readonly #byType = new Map<string, Handlers<HeraldEvent<any>>>();
  readonly #gaps = new Handlers<Gap>();
  readonly #states = new Handlers<State>();
  readonly #errors = new Handlers<HeraldError>();
  readonly #readers = new Set<Reader<HeraldEvent>>();
  #state: State = { name: "connecting" };
  /** States that handlers are to be told, in order: one may bring about the next. */
  readonly #untold: State[] = [];
  /** Where this tab is the one that stores positions. */
  #store: PositionStore | undefined;
  /** Until there is a place to go on from, but for what the application said. */
  #isNew = true;
  #unwatch = (): void => {};

  /** Use `connect`. */
  constructor(url: string | URL, options: HeraldOptions, environment: Environment) {
    const { WebSocket = environment.WebSocket, fetch = environment.fetch } = options;
    this.#environment = { ...environment, WebSocket, fetch };
    this.#settings = complete(options, { websocket: !!WebSocket, sse: !!fetch });
    this.#endpoints = endpointsOf(url, environment.base);
    const application = {
      event: (message: EventMessage) => this.#event(message),
      gap: (message: GapMessage) => this.#gap(message),
      error: (message: ErrorMessage) => this.#refused(message),
    };
    this.#inbox = new Inbox(application, () => this.#store?.changed());
    this.#inbox.begin(this.#settings.positions);
    this.#feed = this.#makeFeed();
    this.#watch();
    // So that handlers can be added before anything happens.
    queueMicrotask(() => this.#feed.start());
  }

  // What an application calls

  /** A new object after each change. */
  get state(): State {
    return this.#state;
  }

  /** By channel, the last position that was dealt with: all its handlers have returned. */
  get positions(): Record<string, string> {
    return toRecord(this.#inbox.settled);
  }

  /**
   * Calls `handler` for each event of this type, `"*"`: of any, in order; gives back what ends that.
   * A handler may give a promise: the next event does not wait for it, the stored position does.
   */
  on<T = unknown>(type: string, handler: (event: HeraldEvent<T>) => unknown): Unsubscribe {
    let handlers = this.#byType.get(type);
    if (!handlers) this.#byType.set(type, (handlers = new Handlers()));
    return handlers.add(handler);
  }

  /** Calls `handler` where events may be missing, before any later one. */
  onGap(handler: (gap: Gap) => unknown): Unsubscribe {
    return this.#gaps.add(handler);
  }

  /** Calls `handler` after each change of `state`. */
  onState(handler: (state: State) => unknown): Unsubscribe {
    return this.#states.add(handler);
  }

  /** Calls `handler` for what goes wrong; see `HeraldError`. With none, the console shows it. */
  onError(handler: (error: HeraldError) => unknown): Unsubscribe {
    return this.#errors.add(handler);
  }

  /**
   * Joins a topic; with a position, resumes it from there.
   *
   * @throws {TypeError} where that is no topic's name, or no position.
   */
  subscribe(topic: string, position?: string): void {
    checkTopic(topic);
    const from = parsePosition(position);
    if (position !== undefined && !from) throw new TypeError(`Not a position: ${position}`);
    if (from) this.#inbox.set(channelOf(topic), from);
    this.#feed.subscribe(topic, from);
  }

  /** Leaves a topic. One that the token names is joined again at the next connect. */
  unsubscribe(topic: string): void {
    checkTopic(topic);
    this.#inbox.forget(channelOf(topic));
    this.#feed.unsubscribe(topic);
  }

  /** Ends it for good; loops over it end, a second call does nothing. */
  close(): void {
    this.#feed.close();
  }

  /**
   * Events from now on, for one loop. Where more than `buffer` events wait for it, it is given those
   * and throws `HeraldError` `overflow`. It ends when the connection is closed; where you close it, at
   * once: what it was not given counts as not dealt with.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<HeraldEvent, undefined> {
    const reader = new Reader<HeraldEvent>(this.#settings.buffer, () => this.#readers.delete(reader));
    this.#readers.add(reader);
    if (this.#state.name === "closed") reader.end();
    return reader;
  }

  // What the feed tells

  #event({ event: type, data, channel, id, time }: EventMessage): Promise<unknown> | undefined {
    const event: HeraldEvent = { type, data, channel, id, time };
    const readers = [...this.#readers]; // those of now
    const pending: (Promise<unknown> | undefined)[] = [];
    pending.push(this.#byType.get(type)?.call(event, this.#blame));
    if (type !== ANY) pending.push(this.#byType.get(ANY)?.call(event, this.#blame));
    for (const reader of readers) pending.push(reader.push(event));
    const waits = pending.filter((each) => each !== undefined);
    return waits.length ? Promise.all(waits) : undefined;
  }

  #gap({ channel, from, to }: GapMessage): Promise<unknown> | undefined {
    if (this.#gaps.empty) {
      const message = `Events of ${channel} may be missing, and there is no onGap handler to load afresh`;
      this.#failed(new HeraldError("gap", message, { channel }));
    }
    return this.#gaps.call({ channel, from, to }, this.#blame);
  }

  #refused({ code, message, channel }: ErrorMessage): void {
    const isOver = isFinal(code) || code === NOT_SUBSCRIBED;
    if (isOver && channel !== undefined) this.#inbox.forget(channel);
    if (!NO_MATTER.includes(code)) this.#failed(new HeraldError(code, message, { channel }));
  }

  #show(state: State): void {
    if (this.#state.name === "closed" || isSame(state, this.#state)) return;
    this.#state = state;
    if (state.name === "closed") this.#end(state.why === "done");
    if (this.#untold.push(state) > 1) return;
    for (; this.#untold[0]; this.#untold.shift()) this.#states.call(this.#untold[0], this.#blame);
  }

  #end(now: boolean): void {
    this.#unwatch();
    this.#store?.flush();
    for (const reader of this.#readers) reader.end(now);
  }

  readonly #blame = (cause: unknown): void => {
    const said = cause instanceof Error ? cause.message : String(cause);
    this.#failed(new HeraldError("handler", `A handler failed: ${said}`, { cause }));
  };

  #failed(error: HeraldError): void {
    if (this.#errors.empty) report(error);
    else void this.#errors.call(error, report);
  }

  // What it is made of

  #makeFeed(): Feed {
    const { topics, token, timeout, transports, shared, user } = this.#settings;
    const { clock, locks, BroadcastChannel, page } = this.#environment;
    const options = {
      name: this.#endpoints.websocket,
      clock,
      topics,
      token,
      timeout,
      ladder: new Ladder(transports),
      open: (...how: Parameters<ConnectionOptions["open"]>) => this.#open(...how),
    };
    const shown = {
      state: (state: State) => this.#show(state),
      failed: (error: HeraldError) => this.#failed(error),
    };
    if (shared && locks && BroadcastChannel) {
      return new Tabs({ ...options, locks, BroadcastChannel, user }, {
        ...shown,
        deliver: (message, after) => this.#inbox.take(message, after),
        positions: () => this.#inbox.held,
        begin: (positions) => {
          this.#isNew = false;
          this.#inbox.begin(positions);
        },
        leads: (leader) => this.#keepPositions(leader),
        follows: () => this.#keepPositionsNoMore(),
        visible: () => page?.document.visibilityState !== "hidden",
      });
    }
    let known = false;
    const gate = async (claims: Claims): Promise<void> => {
      if (known) return;
      known = true;
      this.#keepPositions(claims.user ?? user);
      connection.adopt(this.#inbox.held);
    };
    const deliver = (message: ServerMessage): void => void this.#inbox.take(message, undefined);
    const connection: Connection = new Connection({ ...options, gate }, { ...shown, deliver });
    return connection;
  }

  #open(...[transport, listener, wanted]: Parameters<ConnectionOptions["open"]>): Link {
    const { WebSocket, fetch, clock } = this.#environment;
    const { parse } = this.#settings;
    return transport === "websocket"
      ? openWebSocket(WebSocket!, this.#endpoints.websocket, parse, listener)
      : openStream({ fetch: fetch!, url: this.#endpoints.sse, parse, clock, wanted }, listener);
  }

  #watch(): void {
    const { page } = this.#environment;
    if (!page) return;
    this.#unwatch = watchPage(page, {
      wake: (why) => this.#feed.wake(why),
      hidden: () => this.#store?.flush(),
      suspend: () => {
        this.#store?.flush();
        this.#feed.suspend();
      },
      resume: () => this.#feed.resume(),
    });
  }

  // Positions beyond the page

  /** This tab stores the user's positions from now on, and begins where they are. */
  #keepPositions(user: string | undefined): void {
    if (this.#settings.storage === undefined) return;
    const failed = (cause: unknown): void => {
      this.#keepPositionsNoMore();
      this.#failed(new HeraldError("storage", `Positions cannot be stored: ${cause}`, { cause }));
    };
    try {
      if (user === undefined) throw new Error("the token names no user; give the option `user`");
      const key = `herald:${this.#endpoints.websocket}:${user}`;
      const positions = (): ReadonlyMap<string, Position> => this.#inbox.settled;
      this.#store = new PositionStore(this.#storage(), key, this.#environment.clock, positions, failed);
      if (this.#isNew) this.#inbox.begin(this.#store.load());
      this.#isNew = false;
    } catch (cause) {
      failed(cause);
    }
  }

  #keepPositionsNoMore(): void {
    this.#store?.flush();
    this.#store = undefined;
  }

  /** Throws where there is none: in a sandboxed frame, say, or where cookies are blocked. */
  #storage(): StorageLike {
    const { storage } = this.#settings;
    const found = storage === "local" ? this.#environment.localStorage() : storage;
    if (!found) throw new Error("there is no localStorage");
    return found;
  }
}

/**
 * Connects to Herald, and stays connected until `close`.
 *
 * @param url Herald's address: `ws`, `wss`, `http` or `https`, with or without `/v1/ws`; in a page
 *   it may be relative.
 * @throws {TypeError} for an address or options that cannot be.
 * @throws {Error} where this machine has neither a WebSocket nor `fetch`, as far as allowed.
 */
export function connect(url: string | URL, options: HeraldOptions = {}): Herald {
  return new Herald(url, options, thisMachine());
}

function isSame(a: State, b: State): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Nobody listens for errors: the console is where they are looked for. */
function report(error: unknown): void {
  const cause = error instanceof HeraldError && error.code === "handler" ? error.cause : error;
  if (error instanceof HeraldError && error.code !== "handler") console.warn(String(error));
  else if (typeof reportError === "function") reportError(cause);
  else console.error(cause);
}
