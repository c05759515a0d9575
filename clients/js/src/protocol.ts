/**
 * What a client decides: the rules of openapi/vectors/README.md, without clock, socket or chance.
 *
 * Each method is one thing that happened, and gives back what is to be done about it. The states:
 *
 *     connecting --opened, welcome--> live
 *     connecting, live --lost--> waiting --retry--> connecting
 *     any --close, or no use in going on--> closed
 *
 * An attempt may begin in `connecting` once `needsToken` is false.
 */

import { STABLE, backoff, type Wait } from "./backoff.js";
import { LOST, advise } from "./close.js";
import {
  channelOf,
  topicOf,
  type ClientMessage,
  type ConnectMessage,
  type ErrorMessage,
  type EventMessage,
  type GapMessage,
  type ServerMessage,
  type WelcomeMessage,
} from "./messages.js";
import { isBeginning, isLater, parsePosition, toRecord, type Position } from "./position.js";

export type StateName = "connecting" | "live" | "waiting" | "closed";

/**
 * - `done`: the application closed it.
 * - `logged_out`: there is no token.
 * - `unauthorized`: token after token was refused.
 * - `refused`: the server's close code says to stay away.
 */
export type ClosedWhy = "done" | "logged_out" | "unauthorized" | "refused";

/** What is to be done, in the order of the keys. */
export interface Effects {
  /** End the connection as dead. */
  drops: boolean;
  /** Send these. */
  sends: ClientMessage[];
  /** Give these to the application. */
  events: EventMessage[];
  gaps: GapMessage[];
  errors: ErrorMessage[];
  /** Call `retry` after so long. */
  wait?: Wait;
  /** Ask for a new token: after `wait` where there is one, else now. */
  asksToken: boolean;
  /** Call `refreshDue` in so many seconds. */
  refreshIn?: number;
}

/** How a connection ended. */
export interface Loss {
  code: number;
  /** Seconds that it was live; 0 where it never was. */
  lasted: number;
}

/** So many refusals in a row, and it is no use asking for a further token. */
const REFUSALS = 3;
/** Of the time that a token has left, the part after which a new one is asked for. */
const REFRESH_AFTER = 0.9;
const REFRESH_AGAIN_AFTER = 0.5;
/** Seconds: a token is not asked for more often. */
const REFRESH_LEAST = 1;
/** So many heartbeats without a sound, and the server is gone. */
const SILENT_HEARTBEATS = 2;
const FINAL = new Set(["forbidden", "too_many_subscriptions", "invalid_topic"]);

/** Whether an error says that a topic is not to be had. */
export function isFinal(code: string): boolean {
  return FINAL.has(code);
}

export class Protocol {
  #state: StateName = "connecting";
  #why: ClosedWhy | undefined;
  readonly #topics: Set<string>;
  readonly #held: Map<string, Position>;
  #token: string | undefined;
  #oldToken: string | undefined;
  #needsToken: boolean;
  /** Failures since a connection that lasted. */
  #failures = 0;
  #refusals = 0;
  /** The server's `after_ms`, for the next wait. */
  #afterMs = 0;
  #heartbeat: number | undefined;
  #expires: number | undefined;
  /** What this connection was asked for; undefined before `connect` was sent. */
  #asked: Set<string> | undefined;
  /** How many `unsubscribed` of a topic are on their way. */
  readonly #leaving = new Map<string, number>();
  /** Topics to ask for again: the engine was away. */
  readonly #again = new Set<string>();

  /** `token`: undefined where one must be asked for before the first attempt. */
  constructor(
    topics: Iterable<string> = [],
    positions: Iterable<readonly [string, Position]> = [],
    token?: string,
  ) {
    this.#topics = new Set(topics);
    this.#held = new Map(positions);
    this.#token = token;
    this.#needsToken = token === undefined;
  }

  get state(): StateName {
    return this.#state;
  }

  /** Why it is closed. */
  get why(): ClosedWhy | undefined {
    return this.#why;
  }

  /** Whether an attempt must wait for a token. */
  get needsToken(): boolean {
    return this.#needsToken;
  }

  /** The last position of each channel. */
  get positions(): ReadonlyMap<string, Position> {
    return this.#held;
  }

  /** The topics that are wanted, in the order in which they came to be. */
  get topics(): ReadonlySet<string> {
    return this.#topics;
  }

  /** Whether this connection has to do with a topic, be it that it is about to leave it. */
  knows(topic: string): boolean {
    const channel = channelOf(topic);
    return !!this.#asked?.has(topic) || this.isLeaving(channel) || this.#held.has(channel);
  }

  /** Whether the `unsubscribed` of a channel is on its way: what comes before is wanted no more. */
  isLeaving(channel: string): boolean {
    return this.#leaving.has(topicOf(channel) ?? "");
  }

  /** The token has expired: an attempt needs another one. */
  expire(): void {
    this.#needsToken = true;
  }

  /** Go on from these positions; the connection must be opened anew for that. */
  adopt(positions: Iterable<readonly [string, Position]>): void {
    for (const [channel, position] of positions) this.#held.set(channel, position);
  }

  // What the connection does

  /** It is open: say who this is. */
  opened(): Effects {
    const effects = nothing();
    if (this.#state !== "connecting") return effects;
    const connect: ConnectMessage = { type: "connect" };
    if (this.#token) connect.token = this.#token;
    if (this.#held.size) connect.positions = toRecord(this.#held);
    if (this.#topics.size) connect.topics = [...this.#topics];
    this.#asked = new Set(this.#topics);
    effects.sends.push(connect);
    return effects;
  }

  /** The server said this, at `now` (Unix seconds). */
  receive(message: ServerMessage, now: number): Effects {
    const effects = nothing();
    if (this.#state === "closed" || this.#asked === undefined) return effects;
    switch (message.type) {
      case "welcome":
        this.#welcome(message, now, effects);
        break;
      case "event":
        this.#event(message, effects);
        break;
      case "gap":
        this.#gap(message, effects);
        break;
      case "subscribed":
        this.#join(message.channel, message.position);
        break;
      case "unsubscribed":
        this.#left(message.channel);
        break;
      case "authenticated":
        this.#oldToken = undefined;
        this.#refresh(message.expires, REFRESH_AFTER, now, effects);
        break;
      case "error":
        this.#error(message, now, effects);
        break;
      case "reconnect":
        if (message.after_ms >= 0) this.#afterMs = message.after_ms;
        break;
      case "ping":
        effects.sends.push({ type: "pong" });
        break;
    }
    return effects;
  }

  /** The connection has ended, or could not be opened. */
  lost({ code, lasted }: Loss): Effects {
    const effects = nothing();
    if (this.#state === "closed") return effects;
    this.#forgetConnection();
    if (lasted >= STABLE) this.#failures = 0;
    const advice = advise(code);
    if (advice === "stay") {
      this.#end("refused");
      return effects;
    }
    let wait = backoff(this.#failures);
    if (advice === "token") {
      this.#refusals++;
      if (this.#refusals >= REFUSALS) {
        this.#end("unauthorized");
        return effects;
      }
      if (this.#refusals === 1) wait = { least: 0, most: 0 };
      this.#needsToken = true;
    } else if (advice === "now" && this.#failures === 0) {
      wait = { least: 0, most: 0 };
    }
    this.#waitFor(wait, effects);
    return effects;
  }

  /** Nothing was heard for so many seconds of the `lasted` that the connection was live. */
  silentFor(seconds: number, lasted = seconds): Effects {
    const limit = this.#heartbeat && SILENT_HEARTBEATS * this.#heartbeat;
    if (this.#state !== "live" || !limit || seconds < limit) return nothing();
    return { ...this.lost({ code: LOST, lasted }), drops: true };
  }

  // What time does

  /** The wait is over, or was cut short. */
  retry(): Effects {
    const effects = nothing();
    if (this.#state === "waiting") this.#state = "connecting";
    if (this.#state === "live") {
      for (const topic of this.#again) {
        if (this.#topics.has(topic)) this.#subscribe(topic, effects);
      }
      this.#again.clear();
    }
    return effects;
  }

  /** `refreshIn` has passed. */
  refreshDue(): Effects {
    return { ...nothing(), asksToken: this.#state === "live" };
  }

  // What the application does

  /** It gave a token (`undefined`: a cookie speaks for it); null: nobody is logged in. */
  token(token: string | null | undefined): Effects {
    const effects = nothing();
    if (this.#state === "closed") return effects;
    if (token === null) {
      this.#end("logged_out");
      return effects;
    }
    this.#needsToken = false;
    if (this.#state === "live" && token) {
      this.#oldToken ??= this.#token;
      effects.sends.push({ type: "auth", token });
    }
    this.#token = token;
    return effects;
  }

  /** Asking it for a token failed, at `now`. */
  tokenFailed(now: number): Effects {
    const effects = nothing();
    if (this.#state === "live") {
      this.#refresh(this.#expires, REFRESH_AGAIN_AFTER, now, effects);
    } else if (this.#state !== "closed" && this.#needsToken) {
      this.#waitFor(backoff(this.#failures), effects);
    }
    return effects;
  }

  /** It wants a topic, after `position` where one is given. */
  subscribe(topic: string, position?: Position): Effects {
    const effects = nothing();
    if (this.#state === "closed") return effects;
    this.#topics.add(topic);
    if (position) this.#held.set(channelOf(topic), position);
    if (this.#state === "live" && !this.#asked!.has(topic)) this.#subscribe(topic, effects);
    return effects;
  }

  /** It wants a topic no more. */
  unsubscribe(topic: string): Effects {
    const effects = nothing();
    if (this.#state === "closed") return effects;
    this.#topics.delete(topic);
    if (this.#state === "live") this.#unsubscribe(topic, effects);
    else this.#held.delete(channelOf(topic));
    return effects;
  }

  /** It is done. */
  close(): Effects {
    if (this.#state !== "closed") this.#end("done");
    return nothing();
  }

  // What the server's messages mean

  #welcome(message: WelcomeMessage, now: number, effects: Effects): void {
    this.#state = "live";
    this.#refusals = 0;
    this.#afterMs = 0;
    this.#heartbeat = message.heartbeat;
    for (const [channel, joined] of Object.entries(message.channels ?? {})) {
      this.#join(channel, joined?.position);
    }
    this.#refresh(message.expires, REFRESH_AFTER, now, effects);
    for (const topic of [...this.#asked!]) {
      if (!this.#topics.has(topic)) this.#unsubscribe(topic, effects);
    }
    for (const topic of this.#topics) {
      if (!this.#asked!.has(topic)) this.#subscribe(topic, effects);
    }
  }

  #event(message: EventMessage, effects: Effects): void {
    const id = parsePosition(message.id);
    const held = this.#held.get(message.channel);
    if (!id || (held && !isLater(id, held))) return;
    this.#held.set(message.channel, id);
    effects.events.push(message);
  }

  #gap(message: GapMessage, effects: Effects): void {
    const to = parsePosition(message.to);
    if (!to) return;
    this.#held.set(message.channel, to);
    effects.gaps.push(message);
  }

  #error(message: ErrorMessage, now: number, effects: Effects): void {
    const { code, channel } = message;
    if (code === "unauthorized" || (code === "unavailable" && channel === undefined)) {
      // The answer to `auth`: the old token counts on.
      if (this.#oldToken !== undefined) this.#token = this.#oldToken;
      this.#oldToken = undefined;
      this.#refresh(this.#expires, REFRESH_AGAIN_AFTER, now, effects);
      return;
    }
    effects.errors.push(message);
    if (channel === undefined) return;
    const topic = topicOf(channel);
    if (isFinal(code) && topic !== undefined) {
      this.#drop(topic);
    } else if (code === "not_subscribed") {
      this.#held.delete(channel);
      if (topic !== undefined) this.#isAnswer(topic);
    } else if (code === "unavailable" && topic !== undefined && this.#topics.has(topic)) {
      this.#asked!.delete(topic);
      this.#again.add(topic);
      effects.wait = backoff(0);
    }
  }

  #join(channel: string, position: unknown): void {
    const read = parsePosition(position);
    const held = this.#held.get(channel);
    // 0-0 asked for everything; from here on only what comes after this can be missed.
    if (read && (!held || isBeginning(held))) this.#held.set(channel, read);
  }

  #left(channel: string): void {
    const topic = topicOf(channel);
    this.#held.delete(channel);
    if (topic === undefined) return;
    if (!this.#isAnswer(topic)) this.#drop(topic);
  }

  /** Whether an `unsubscribe` of the topic was not answered yet; by this it is. */
  #isAnswer(topic: string): boolean {
    const expected = this.#leaving.get(topic) ?? 0;
    if (expected > 1) this.#leaving.set(topic, expected - 1);
    else this.#leaving.delete(topic);
    return expected > 0;
  }

  #drop(topic: string): void {
    this.#topics.delete(topic);
    this.#asked?.delete(topic);
    this.#held.delete(channelOf(topic));
  }

  #refresh(expires: number | undefined, part: number, now: number, effects: Effects): void {
    this.#expires = expires;
    if (expires !== undefined) {
      effects.refreshIn = Math.max(REFRESH_LEAST, (expires - now) * part);
    }
  }

  // Steps that several share

  #subscribe(topic: string, effects: Effects): void {
    const held = this.#held.get(channelOf(topic));
    this.#asked!.add(topic);
    effects.sends.push({ type: "subscribe", topic, ...(held && { position: held.text }) });
  }

  #unsubscribe(topic: string, effects: Effects): void {
    this.#asked!.delete(topic);
    this.#leaving.set(topic, (this.#leaving.get(topic) ?? 0) + 1);
    effects.sends.push({ type: "unsubscribe", topic });
  }

  #waitFor(wait: Wait, effects: Effects): void {
    const later = this.#afterMs / 1000;
    this.#afterMs = 0;
    this.#failures++;
    this.#state = "waiting";
    effects.wait = { least: wait.least + later, most: wait.most + later };
    effects.asksToken = this.#needsToken;
  }

  #forgetConnection(): void {
    for (const topic of this.#leaving.keys()) {
      if (!this.#topics.has(topic)) this.#held.delete(channelOf(topic));
    }
    this.#leaving.clear();
    this.#again.clear();
    this.#asked = undefined;
    this.#oldToken = undefined;
    this.#heartbeat = undefined;
  }

  #end(why: ClosedWhy): void {
    this.#forgetConnection();
    this.#state = "closed";
    this.#why = why;
  }
}

function nothing(): Effects {
  return { drops: false, sends: [], events: [], gaps: [], errors: [], asksToken: false };
}
