/**
 * One connection to Herald, for as long as the application wants it: runs the protocol core over
 * links, with timers and tokens.
 *
 * An attempt: a token where one is needed, then the gate (see `ConnectionOptions`), then a link;
 * where that does not reach the server, perhaps another one of the other kind. Only then it has
 * failed, and the core says how long to wait.
 */

import { draw } from "./backoff.js";
import type { Clock } from "./clock.js";
import { LOST, UNAUTHORIZED, reasonFor, type WaitReason } from "./close.js";
import { HeraldError } from "./errors.js";
import type { Feed, FeedListener, State, Wake } from "./feed.js";
import type { Ladder } from "./ladder.js";
import type { Link, LinkListener, TransportName, Wanted } from "./link.js";
import { channelOf, type ClientMessage, type ServerMessage } from "./messages.js";
import type { Position } from "./position.js";
import { Protocol, type Effects } from "./protocol.js";
import { Timers } from "./timers.js";
import { askToken, readClaims, type Claims, type Token, type TokenSource } from "./token.js";

export interface ConnectionOptions {
  /** The server's address: the name of what tabs share, too. */
  name: string;
  clock: Clock;
  topics: Iterable<string>;
  /** Left out: a cookie speaks for the user. */
  token: TokenSource | undefined;
  ladder: Ladder;
  /** Opens a link; `wanted` tells at any time what is to be asked for. */
  open(transport: TransportName, listener: LinkListener, wanted: Wanted): Link;
  /** Milliseconds from opening a link to `welcome`. */
  timeout: number;
  /** Called with what the token claims before each attempt, which waits for it. */
  gate(claims: Claims): Promise<void>;
}

type Timer = "retry" | "refresh" | "welcome" | "silence" | "probe" | "climb" | `token ${number}`;

/** Milliseconds in which the server answers a probe, or is dead. */
const PROBE_TIMEOUT = 5000;
/** What the application is not told, but its inbox. */
const ABOUT_CHANNELS = new Set<ServerMessage["type"]>(["welcome", "subscribed", "unsubscribed"]);
/** "Reconnect now": for connections that are ended to open another one at once. */
const AT_ONCE = 4000;
/** Milliseconds after it was given in which a token is not asked for again, whatever it says. */
const TOKEN_FRESH = 1000;
/** The loss at which the other transport has been tried as well. */
const TOLD_AT = 2;
/** Seconds. */
const A_MINUTE = 60;

export class Connection implements Feed {
  readonly #options: ConnectionOptions;
  readonly #listener: FeedListener;
  readonly #protocol: Protocol;
  readonly #timers: Timers<Timer>;
  #state: State = { name: "connecting" };
  #claims: Claims = { topics: [] };
  #link: Link | undefined;
  /** A link that is opened to see whether its transport works. */
  #scout: Link | undefined;
  #transport: TransportName = "websocket";
  /** Whether the server has spoken on this link. */
  #reached = false;
  #liveSince = 0;
  #heardAt = 0;
  #suspended = false;
  /** Counts attempts, so that one that was overtaken does not go on. */
  #attempt = 0;
  #user = "";
  /** How often a token was asked for, and when there was last an answer. */
  #asked = 0;
  #answeredAt = 0;
  /** Seconds that the server's clock is ahead of ours, where that is known. */
  #skew = 0;
  /** So many losses more, and that it cannot connect is told; 0 once that was, or it was live. */
  #untold = TOLD_AT;
  /** How the last link ended. */
  #loss = { code: LOST, reason: "" };

  constructor(options: ConnectionOptions, listener: FeedListener) {
    this.#options = options;
    this.#listener = listener;
    this.#protocol = new Protocol(options.topics);
    this.#timers = new Timers(options.clock);
  }

  get positions(): ReadonlyMap<string, Position> {
    return this.#protocol.positions;
  }

  get topics(): ReadonlySet<string> {
    return this.#protocol.topics;
  }

  get state(): State {
    return this.#state;
  }

  start(): void {
    void this.#begin();
  }

  subscribe(topic: string, position?: Position): void {
    // Where it was asked for already, only a connection anew begins at another place.
    const isAnew = position && this.#protocol.knows(topic);
    this.#do(this.#protocol.subscribe(topic, isAnew ? undefined : position));
    if (isAnew) this.adopt([[channelOf(topic), position]]);
  }

  unsubscribe(topic: string): void {
    this.#do(this.#protocol.unsubscribe(topic));
  }

  /** Go on from these positions: at the next attempt, or at once on a connection anew. */
  adopt(positions: Iterable<readonly [string, Position]>): void {
    this.#protocol.adopt(positions);
    if (this.#link) this.#leave(AT_ONCE);
  }

  wake(why: Wake): void {
    if (this.#suspended) return;
    const { state } = this.#protocol;
    if (state === "waiting" && why !== "offline") {
      this.#retry();
    } else if (state === "connecting" && why === "online" && this.#link && !this.#reached) {
      this.#link.close(true);
      this.#open(this.#transport);
    } else if (state === "live") {
      this.#checkSilence();
      if (this.#link?.probe()) {
        this.#timers.start("probe", PROBE_TIMEOUT, () => this.#drop(LOST));
      } else if (this.#link && why === "online") {
        this.#leave(AT_ONCE);
      }
    }
  }

  suspend(): void {
    if (this.#suspended) return;
    this.#suspended = true;
    this.#attempt++;
    if (this.#protocol.state !== "waiting") this.#leave(AT_ONCE);
    this.#timers.stopAll();
  }

  resume(): void {
    if (!this.#suspended) return;
    this.#suspended = false;
    if (this.#protocol.state !== "closed") this.#retry();
  }

  close(): void {
    this.#do(this.#protocol.close());
    this.#settle();
  }

  // Attempts

  #retry(): void {
    this.#timers.stop("retry");
    this.#do(this.#protocol.retry());
    this.#settle();
    if (this.#protocol.state === "connecting") void this.#begin();
  }

  async #begin(): Promise<void> {
    const attempt = ++this.#attempt;
    const overtaken = (): boolean =>
      attempt !== this.#attempt || this.#protocol.state !== "connecting";
    if (overtaken()) return;
    this.#checkExpiry();
    do {
      if (this.#protocol.needsToken) await this.#ask();
      if (overtaken()) return;
      await this.#options.gate(this.#claims);
      if (overtaken()) return;
      this.#checkExpiry();
    } while (this.#protocol.needsToken);
    this.#open(this.#options.ladder.begin(this.#options.clock.now()));
  }

  #checkExpiry(): void {
    // A clock that is wrong costs a call of `token()` here, no more.
    const { expires } = this.#claims;
    const expired = expires !== undefined && expires <= this.#now();
    const age = this.#options.clock.elapsed() - this.#answeredAt;
    if (expired && age > TOKEN_FRESH) this.#protocol.expire();
  }

  /** Asks for a token and gives it to the core; a failure too. */
  async #ask(): Promise<void> {
    const { clock, token: source } = this.#options;
    const timer = `token ${++this.#asked}` as const;
    const after = (milliseconds: number, then: () => void): (() => void) => {
      this.#timers.start(timer, milliseconds, then);
      return () => this.#timers.stop(timer);
    };
    let token: Token | undefined;
    try {
      token = await askToken(source, { after });
      this.#answeredAt = clock.elapsed();
    } catch (cause) {
      this.#tokenFailed(cause);
      return;
    }
    this.#claims = readClaims(token);
    this.#do(this.#protocol.token(token));
    this.#settle();
  }

  #tokenFailed(cause: unknown): void {
    const { state } = this.#protocol;
    // While the old one counts, nobody needs to know.
    if (state === "connecting" || state === "waiting") {
      const said = cause instanceof Error ? cause.message : String(cause);
      this.#listener.failed(new HeraldError("token", `token() failed: ${said}`, { cause }));
    }
    this.#do(this.#protocol.tokenFailed(this.#now()), "token");
  }

  #open(transport: TransportName): void {
    this.#transport = transport;
    this.#reached = false;
    const mine = (): boolean => this.#link === link;
    const link = this.#openLink(transport, {
      opened: () => mine() && this.#do(this.#protocol.opened()),
      heard: () => mine() && this.#heard(),
      said: (message) => mine() && this.#receive(message),
      babbled: (text) => mine() && this.#babbled(text),
      closed: (code, reason) => mine() && this.#closed(code, reason),
    });
    this.#link = link;
    if (!link) {
      this.#closed(LOST, "");
      return;
    }
    this.#timers.start("welcome", this.#options.timeout, () => this.#drop(LOST));
  }

  #openLink(transport: TransportName, listener: LinkListener): Link | undefined {
    try {
      return this.#options.open(transport, listener, this.#protocol);
    } catch (cause) {
      // A page's security policy may forbid it.
      this.#untold = 0;
      this.#listener.failed(new HeraldError("transport", `${transport}: ${cause}`, { cause }));
      return undefined;
    }
  }

  // What a link tells

  #heard(): void {
    this.#timers.stop("probe");
    this.#heardAt = this.#options.clock.elapsed();
  }

  #receive(message: ServerMessage): void {
    if (!this.#reached) this.#reach();
    const channel = "channel" in message ? message.channel : undefined;
    const after = channel === undefined ? undefined : this.#protocol.positions.get(channel);
    const isLeft = channel !== undefined && this.#protocol.isLeaving(channel);
    const wasLive = this.#protocol.state === "live";
    if ("expires" in message) this.#setSkew(message.expires);
    const effects = this.#protocol.receive(message, this.#now());
    if (!isLeft && ABOUT_CHANNELS.has(message.type)) this.#listener.deliver(message, after);
    if (message.type === "welcome" && !wasLive) this.#welcomed(message);
    this.#do(effects);
    this.#settle();
    const told = isLeft ? effects.errors : [...effects.events, ...effects.gaps, ...effects.errors];
    for (const each of told) this.#listener.deliver(each, after);
  }

  #welcomed(message: ServerMessage & { type: "welcome" }): void {
    this.#user = message.user;
    this.#untold = 0;
    this.#timers.stop("welcome");
    this.#liveSince = this.#options.clock.elapsed();
    this.#watchSilence(message.heartbeat);
  }

  /** The server's time as far as it is known, Unix seconds. */
  #now(): number {
    return this.#options.clock.now() / 1000 + this.#skew;
  }

  /** The server takes a token to be good that has expired by our clock: so that is fast. */
  #setSkew(expires: number | undefined): void {
    if (expires === undefined || this.#now() < expires) return;
    const { issued } = this.#claims;
    const before = issued !== undefined && issued < expires ? issued : expires - A_MINUTE;
    this.#skew += before - this.#now();
  }

  #babbled(text: string): void {
    const start = text.slice(0, 100);
    this.#listener.failed(new HeraldError("message", `The server said what is no message: ${start}`));
  }

  #reach(): void {
    this.#reached = true;
    const { clock, ladder } = this.#options;
    const climb = ladder.reached(this.#transport, clock.now());
    // A stream is not looked at beside the connection: the next attempt begins with it.
    if (climb === undefined || ladder.first === "sse") return;
    this.#timers.start("climb", climb, () => this.#climb());
  }

  #closed(code: number, reason: string): void {
    this.#link = undefined;
    const silent = code === LOST || code === 1005;
    if (!silent && !this.#reached) this.#reach();
    if (!this.#reached && this.#protocol.state === "connecting") {
      const other = this.#options.ladder.failed(this.#transport);
      if (other) {
        this.#open(other);
        return;
      }
    }
    this.#lost(code, reason);
  }

  #lost(code: number, reason: string, why = reasonFor(code)): void {
    const { clock } = this.#options;
    const lasted = this.#protocol.state === "live" ? (clock.elapsed() - this.#liveSince) / 1000 : 0;
    this.#loss = { code, reason };
    this.#stopTimers();
    if (code === LOST && this.#untold > 0 && --this.#untold === 0) {
      // Later on the network may fail; but an address that is wrong never was right.
      const address = this.#options.name.replace(/^ws(.*)\/v1\/ws.*/, "http$1");
      const said = reason.trim() || "no connection";
      const message = `Cannot connect to ${address}, and goes on trying: ${said}`;
      this.#listener.failed(new HeraldError("network", message));
    }
    this.#do(this.#protocol.lost({ code, lasted }), why);
    this.#settle();
  }

  /** The link is dead: go on as if it had been closed. */
  #drop(code: number): void {
    this.#link?.close(true);
    this.#closed(code, "no sign of life");
  }

  /** End the link, which is none the worse. */
  #leave(code: number): void {
    this.#link?.close();
    this.#link = undefined;
    this.#lost(code, "", "network");
  }

  // Life

  #watchSilence(heartbeat: number): void {
    const limit = 2 * heartbeat * 1000;
    if (!(limit > 0)) return;
    const silent = this.#options.clock.elapsed() - this.#heardAt;
    this.#timers.start("silence", Math.max(limit - silent, 0) + 1, () => {
      this.#checkSilence();
      if (this.#protocol.state === "live") this.#watchSilence(heartbeat);
    });
  }

  #checkSilence(): void {
    const elapsed = this.#options.clock.elapsed();
    const silent = (elapsed - this.#heardAt) / 1000;
    const effects = this.#protocol.silentFor(silent, (elapsed - this.#liveSince) / 1000);
    if (!effects.drops) return;
    this.#link?.close(true);
    this.#link = undefined;
    this.#stopTimers();
    this.#do(effects, "network");
    this.#settle();
  }

  /** On the second transport: see whether the first works by now, and change to it if so. */
  #climb(): void {
    const { clock, ladder } = this.#options;
    if (this.#protocol.state !== "live") return;
    const end = (works: boolean): void => {
      this.#timers.stop("climb");
      this.#scout?.close();
      this.#scout = undefined;
      if (works) {
        ladder.reached(ladder.first, clock.now());
        this.#leave(AT_ONCE);
      } else {
        this.#timers.start("climb", ladder.stillBlocked(clock.now()), () => this.#climb());
      }
    };
    this.#scout = this.#openLink(ladder.first, {
      // What is between may open it and pass nothing on.
      opened: () => this.#scout?.probe(),
      heard: () => end(true),
      said() {},
      babbled() {},
      closed: () => this.#scout && end(false),
    });
    this.#timers.start("climb", this.#options.timeout, () => end(false));
  }

  // Effects

  #do(effects: Effects, why: WaitReason = "network"): void {
    for (const message of effects.sends) this.#send(message);
    const { clock } = this.#options;
    if (effects.refreshIn !== undefined) {
      const due = (): void => this.#do(this.#protocol.refreshDue());
      this.#timers.start("refresh", effects.refreshIn * 1000, due);
    }
    if (effects.wait) {
      const milliseconds = draw(effects.wait, clock.random);
      if (!this.#suspended) this.#timers.start("retry", milliseconds, () => this.#retry());
      if (this.#protocol.state === "waiting") {
        this.#setState({ name: "waiting", until: clock.now() + milliseconds, why });
      }
    } else if (effects.asksToken) {
      void this.#ask();
    }
  }

  #send(message: ClientMessage): void {
    try {
      this.#link?.send(message);
    } catch {
      // It is closing, and will say so.
    }
  }

  // State

  /** Show the core's state. */
  #settle(): void {
    const { state, why } = this.#protocol;
    if (state === this.#state.name) return;
    if (state === "live") {
      this.#setState({ name: "live", user: this.#user, transport: this.#transport });
    } else if (state === "connecting") {
      this.#setState({ name: "connecting" });
    } else if (state === "closed") {
      this.#end(why!);
    }
  }

  #end(why: NonNullable<Protocol["why"]>): void {
    this.#attempt++;
    this.#timers.stopAll();
    this.#scout?.close();
    this.#scout = undefined;
    this.#link?.close();
    this.#link = undefined;
    const { code, reason } = this.#loss;
    const byServer = why === "refused" || why === "unauthorized";
    this.#setState({ name: "closed", why, ...(byServer && { code, reason }) });
    if (byServer) {
      let said = "The server refused token after token";
      if (this.#options.token === undefined) said = "There is no option token, and no cookie that counts";
      if (why === "refused") said = "The server refuses";
      const hint = code === UNAUTHORIZED || code === 3003 ? "" : " (docs/protocol.md, Close codes)";
      this.#listener.failed(new HeraldError(why, `${said}: ${code} ${reason}${hint}`));
    }
  }

  #setState(state: State): void {
    this.#state = state;
    this.#listener.state(state);
  }

  #stopTimers(): void {
    for (const name of ["refresh", "welcome", "silence", "probe", "climb"] as const) {
      this.#timers.stop(name);
    }
    this.#scout?.close();
    this.#scout = undefined;
  }
}
