/**
 * One connection for all tabs of a user.
 *
 * Each tab asks for one Web Lock; who holds it leads: has the connection, and hands on what comes
 * over a BroadcastChannel, which keeps the order of one sender. When a leader closes or crashes,
 * the browser gives the lock to the next tab.
 *
 * Every tab keeps positions of its own (inbox.ts), so that nothing is lost where leaders change.
 * The new one goes on from its own positions and tells them; a tab that is behind them says where
 * it is, and the leader opens its connection anew from there. Tabs that are further drop what they
 * had. The same heals a tab that finds that it has missed something, because it was frozen, say.
 * What it is told until the leader's `snapshot` it passes over: what follows the snapshot follows
 * its own place.
 *
 * A leader that was frozen with the lock in hand says nothing: a tab that is seen asks, and where
 * no answer comes it takes the lock.
 */

import type { Clock } from "./clock.js";
import { Connection, type ConnectionOptions } from "./connection.js";
import type { Broadcast, Locks } from "./environment.js";
import type { Feed, FeedListener, State, Wake } from "./feed.js";
import { channelOf, topicOf, type ServerMessage } from "./messages.js";
import { fromRecord, isLater, parsePosition, toRecord, type Position } from "./position.js";
import { isFinal } from "./protocol.js";
import { Timers } from "./timers.js";
import type { Claims } from "./token.js";

/** The tab that this is. */
export interface Tab extends FeedListener {
  /** False where something before the message was missed. */
  deliver(message: ServerMessage, after: Position | undefined): boolean;
  /** Where this tab is. */
  positions(): ReadonlyMap<string, Position>;
  /** Begin at these positions in channels where there are none. */
  begin(positions: Iterable<readonly [string, Position]>): void;
  /** This tab has the connection now, for this user; undefined where that is not known. */
  leads(user: string | undefined): void;
  /** It has it no more. */
  follows(): void;
  visible(): boolean;
}

export interface TabsOptions extends Omit<ConnectionOptions, "gate"> {
  locks: Locks;
  BroadcastChannel: new (name: string) => Broadcast;
  /** Where the token does not say. */
  user: string | undefined;
}

type Places = Record<string, string>;

/** What tabs say to each other. */
type Said = { from: string } & (
  | { kind: "leading"; positions: Places }
  | { kind: "here"; topics: string[]; positions: Places; behind: boolean }
  | { kind: "snapshot"; to: string; state: State; positions: Places }
  | { kind: "deliver"; message: ServerMessage; after: string | undefined }
  | { kind: "state"; state: State }
  | { kind: "wake"; why: Wake }
  | { kind: "bye" }
);
type Unsent = Said extends infer Each ? (Each extends Said ? Omit<Each, "from"> : never) : never;

/**
 * - `outside`: not yet among the tabs.
 * - `following`: waits for the lock.
 * - `leading`: holds it.
 * - `alone`: shares with nobody, because it is not known who the user is, or locks are forbidden.
 */
type Role = "outside" | "following" | "leading" | "alone";

/** Milliseconds without a word of the leader after which a tab asks whether it is there. */
const SILENCE = 15_000;
/** And in which that answers, or is frozen. */
const ANSWER = 5_000;
const LOOK = 2_500;
/** Milliseconds by which a leader's retry may be late before it is nudged. */
const LATE = 1_000;
/** Of what tabs say to each other. After a deployment there may be pages of another one. */
const VERSION = 1;

export class Tabs implements Feed {
  readonly #options: TabsOptions;
  readonly #clock: Clock;
  readonly #tab: Tab;
  readonly #connection: Connection;
  readonly #timers: Timers<"look" | "nudge">;
  readonly #id: string;
  readonly #wanted: Set<string>;
  readonly #left = new Set<string>();
  /** Topics that this tab's token names; undefined where that cannot be read. */
  #granted: Set<string> | undefined;
  #user: string | undefined;
  #role: Role = "outside";
  #lock = "";
  #broadcast: Broadcast | undefined;
  /** Ends this tab's being among the others. */
  #membership = new AbortController();
  /** Gives the lock back, or stops waiting for it. */
  #resign = (): void => {};
  /** Fulfilled when this tab leads. */
  #elected: Promise<void> = Promise.resolve();
  /** Leading: what each other tab wants. */
  readonly #others = new Map<string, { topics: Set<string>; gone: AbortController }>();
  /** Following: nothing is taken before the leader's snapshot. */
  #behind = false;
  #heardAt = 0;
  #askedAt: number | undefined;

  constructor(options: TabsOptions, tab: Tab) {
    this.#options = options;
    this.#clock = options.clock;
    this.#tab = tab;
    this.#timers = new Timers(options.clock);
    this.#id = options.clock.random().toString(36).slice(2) + options.clock.now().toString(36);
    this.#wanted = new Set(options.topics);
    const gate = (claims: Claims): Promise<void> => this.#gate(claims);
    this.#connection = new Connection({ ...options, gate }, this.#upstream());
  }

  // Feed

  start(): void {
    this.#connection.start();
  }

  subscribe(topic: string, position?: Position): void {
    this.#wanted.add(topic);
    this.#left.delete(topic);
    const channel = channelOf(topic);
    if (this.#role === "following") {
      this.#behind ||= position !== undefined;
      this.#sayHere(this.#behind);
      return;
    }
    // Another tab may want it already.
    const at = this.#connection.positions.get(channel);
    const isNeeded = position && (!at || isBehind(position, at));
    this.#connection.subscribe(topic, isNeeded ? position : undefined);
    if (at) this.#tab.begin([[channel, at]]);
  }

  unsubscribe(topic: string): void {
    this.#wanted.delete(topic);
    this.#left.add(topic);
    if (this.#role === "following") this.#sayHere();
    else if (this.#role === "leading") this.#dropUnwanted([topic]);
    else this.#connection.unsubscribe(topic);
  }

  wake(why: Wake): void {
    if (this.#role === "following") {
      this.#say({ kind: "wake", why });
      this.#look();
    } else {
      this.#wakeConnection(why);
    }
  }

  suspend(): void {
    this.#leave();
    this.#connection.suspend();
  }

  resume(): void {
    this.#connection.resume();
  }

  close(): void {
    this.#leave();
    this.#connection.close();
  }

  // Among the tabs

  /** The connection's attempts wait here until this tab leads. */
  async #gate(claims: Claims): Promise<void> {
    const user = claims.user ?? this.#options.user;
    // The token is another user's by now: what comes is not for the tabs of the one before.
    if (user !== this.#user) this.#leave();
    if (this.#role === "outside") {
      this.#user = user;
      this.#granted = claims.user === undefined ? undefined : new Set(claims.topics);
      if (user === undefined) this.#goAlone();
      else this.#tryJoin(user);
    }
    await this.#elected;
  }

  #tryJoin(user: string): void {
    try {
      this.#join(user);
    } catch {
      this.#goAlone(); // a sandboxed frame may have no such things
    }
  }

  #goAlone(): void {
    this.#leave();
    this.#role = "alone";
    this.#elected = Promise.resolve();
    this.#takeOver();
  }

  #join(user: string): void {
    const { locks, BroadcastChannel, name } = this.#options;
    this.#lock = `herald:${VERSION}:${name}:${user}`;
    this.#role = "following";
    this.#behind = true;
    this.#heardAt = this.#clock.elapsed();
    this.#broadcast = new BroadcastChannel(this.#lock);
    this.#broadcast.onmessage = ({ data }: { data: Said }) => this.#hear(data);
    const { signal } = (this.#membership = new AbortController());
    // While this tab lives it holds a lock of its own: who gets that knows that it is gone.
    const alive = (): Promise<void> => {
      this.#sayHere(true);
      return new Promise((leave) => signal.addEventListener("abort", () => leave()));
    };
    locks.request(this.#lockOf(this.#id), { signal }, alive).catch(() => {});
    this.#stand();
    this.#watchLeader();
  }

  #lockOf(tab: string): string {
    return `${this.#lock}:${tab}`;
  }

  /** Wait for the lock, or take it. */
  #stand(steal = false): void {
    const waiting = new AbortController();
    let current = true;
    let release = (): void => {};
    this.#resign();
    this.#resign = () => {
      current = false;
      waiting.abort();
      release();
    };
    this.#elected = new Promise((elected) => {
      const held = (): Promise<void> | undefined => {
        if (!current) return undefined;
        this.#lead();
        elected();
        return new Promise((resolve) => (release = resolve));
      };
      const how = steal ? { steal } : { signal: waiting.signal };
      // Rejected where it was given up, taken by another tab, or is forbidden.
      this.#options.locks.request(this.#lock, how, held).catch((error: Error) => {
        if (!current) return;
        if (error.name === "AbortError") {
          this.#deposed();
        } else {
          this.#goAlone();
          elected();
        }
      });
    });
  }

  #lead(): void {
    this.#role = "leading";
    this.#timers.stopAll();
    this.#takeOver();
    this.#sayLeading();
    this.#tell(this.#connection.state);
  }

  /** This tab's connection is to be opened, for what this tab wants. */
  #takeOver(): void {
    this.#tab.leads(this.#user);
    for (const topic of this.#connection.topics) {
      if (!this.#wanted.has(topic)) this.#connection.unsubscribe(topic);
    }
    for (const topic of this.#wanted) this.#connection.subscribe(topic);
    this.#connection.adopt(this.#tab.positions());
  }

  /** The tab that wakes may have been frozen, and have missed what others said. */
  #wakeConnection(why: Wake): void {
    if (this.#role === "leading") this.#sayLeading();
    this.#connection.wake(why);
  }

  #sayLeading(): void {
    this.#say({ kind: "leading", positions: toRecord(this.#connection.positions) });
  }

  /** Another tab took the lock: this one was frozen. */
  #deposed(): void {
    this.#forgetOthers();
    this.#tab.follows();
    this.#role = "following";
    this.#behind = true;
    this.#stand();
    this.#standAside();
    this.#sayHere(true);
    this.#watchLeader();
  }

  /** The connection goes back to the gate. */
  #standAside(): void {
    this.#connection.suspend();
    this.#connection.resume();
  }

  #leave(): void {
    if (this.#role !== "leading" && this.#role !== "following") return;
    this.#say({ kind: "bye" });
    if (this.#role === "leading") this.#tab.follows();
    this.#role = "outside";
    this.#timers.stopAll();
    this.#forgetOthers();
    this.#broadcast?.close();
    this.#broadcast = undefined;
    this.#resign();
    this.#membership.abort();
  }

  #say(what: Unsent): void {
    this.#broadcast?.postMessage({ from: this.#id, ...what });
  }

  #hear(said: Said): void {
    if (this.#role === "leading") {
      if (said.kind === "here") this.#answer(said);
      if (said.kind === "wake") this.#wakeConnection(said.why);
      if (said.kind === "bye") this.#gone(said.from);
    } else if (this.#role === "following") {
      this.#follow(said);
    }
  }

  // Following

  #follow(said: Said): void {
    switch (said.kind) {
      case "leading": {
        const positions = this.#tab.positions();
        const behind = [...fromRecord(said.positions)].some(([channel, at]) => {
          const position = positions.get(channel);
          return position && isBehind(position, at);
        });
        this.#behind ||= behind;
        this.#sayHere(this.#behind);
        break;
      }
      case "snapshot":
        if (said.to === this.#id) {
          this.#behind = false;
          this.#tab.begin([...fromRecord(said.positions)].filter(([channel]) => this.#hears(channel)));
          this.#show(said.state);
        }
        break;
      case "state":
        if (!this.#behind) this.#show(said.state);
        break;
      case "deliver":
        if (!this.#behind) this.#take(said.message, parsePosition(said.after));
        break;
      default:
        return; // from another that follows
    }
    this.#heardAt = this.#clock.elapsed();
    this.#askedAt = undefined;
  }

  /** Say what this tab wants and where it is; `behind`: it needs what follows that. */
  #sayHere(behind = false): void {
    const positions = toRecord(this.#tab.positions());
    this.#say({ kind: "here", topics: [...this.#wanted], positions, behind });
  }

  /** Show the leader's state; its timers may run late where its tab is not seen. */
  #show(state: State): void {
    this.#tab.state(state);
    this.#timers.stop("nudge");
    if (state.name !== "waiting") return;
    this.#timers.start("nudge", state.until - this.#clock.now() + LATE, () => {
      if (this.#tab.visible()) this.#say({ kind: "wake", why: "visible" });
    });
  }

  #watchLeader(): void {
    this.#timers.start("look", LOOK, () => {
      this.#look();
      if (this.#role === "following") this.#watchLeader();
    });
  }

  #look(): void {
    const now = this.#clock.elapsed();
    if (this.#behind) this.#sayHere(true); // the first may be lost
    if (!this.#tab.visible() || now - this.#heardAt < SILENCE) {
      this.#askedAt = undefined;
    } else if (this.#askedAt === undefined) {
      this.#askedAt = now;
      this.#sayHere();
    } else if (now - this.#askedAt >= ANSWER) {
      this.#askedAt = undefined;
      this.#heardAt = now;
      this.#stand(true);
      this.#standAside();
    }
  }

  // Leading

  /** What the connection tells, for all tabs. */
  #upstream(): FeedListener {
    return {
      deliver: (message, after) => {
        if (this.#role === "leading") this.#say({ kind: "deliver", message, after: after?.text });
        this.#take(message, this.#role === "leading" ? after : undefined);
      },
      state: (state) => {
        // What closes this tab need not close the next one.
        if (state.name === "closed") this.#leave();
        if (this.#role !== "following") this.#tell(state);
      },
      failed: (error) => this.#tab.failed(error),
    };
  }

  #tell(state: State): void {
    this.#say({ kind: "state", state });
    this.#tab.state(state);
  }

  #answer({ from, topics, positions, behind }: Said & { kind: "here" }): void {
    const places = fromRecord(positions);
    const held = this.#connection.positions;
    if (behind) {
      const needed = [...places].filter(([channel, position]) => {
        const at = held.get(channel);
        return at && isBehind(position, at);
      });
      if (needed.length) this.#connection.adopt(needed);
    }
    const before = this.#want(from, topics);
    for (const topic of topics) {
      const channel = channelOf(topic);
      this.#connection.subscribe(topic, held.has(channel) ? undefined : places.get(channel));
    }
    this.#dropUnwanted(before);
    this.#say({
      kind: "snapshot",
      to: from,
      state: this.#connection.state,
      positions: toRecord(this.#connection.positions),
    });
  }

  /** A tab wants these topics; gives back those that it wanted before. */
  #want(tab: string, topics: string[]): Iterable<string> {
    const known = this.#others.get(tab);
    const gone = known?.gone ?? new AbortController();
    this.#others.set(tab, { topics: new Set(topics), gone });
    if (!known) {
      const { locks } = this.#options;
      const options = { signal: gone.signal };
      locks.request(this.#lockOf(tab), options, () => this.#gone(tab)).catch(() => {});
    }
    return known?.topics ?? [];
  }

  #gone(tab: string): void {
    const entry = this.#others.get(tab);
    if (!entry) return;
    this.#others.delete(tab);
    entry.gone.abort();
    this.#dropUnwanted(entry.topics);
  }

  #forgetOthers(): void {
    for (const { gone } of this.#others.values()) gone.abort();
    this.#others.clear();
  }

  /** Leave those of the topics that no tab wants. */
  #dropUnwanted(topics: Iterable<string>): void {
    for (const topic of topics) {
      const wanted =
        this.#wanted.has(topic) ||
        (this.#granted?.has(topic) && this.#others.size) ||
        [...this.#others.values()].some((other) => other.topics.has(topic));
      if (!wanted) this.#connection.unsubscribe(topic);
    }
  }

  // For this tab

  /** Whether this tab is to hear a channel: the connection may have more for others. */
  #hears(channel: string): boolean {
    const topic = topicOf(channel);
    if (topic === undefined || this.#wanted.has(topic)) return true;
    return !this.#left.has(topic) && (this.#granted?.has(topic) ?? true);
  }

  #take(message: ServerMessage, after: Position | undefined): void {
    if (message.type === "welcome") {
      const heard = Object.entries(message.channels ?? {}).filter(([channel]) => this.#hears(channel));
      message = { ...message, channels: Object.fromEntries(heard) };
    } else if ("channel" in message && message.channel !== undefined) {
      const isHeard = this.#hears(message.channel);
      const isOver =
        message.type === "unsubscribed" || (message.type === "error" && isFinal(message.code));
      if (isOver) this.#giveUp(topicOf(message.channel) ?? "");
      if (!isHeard) return;
    }
    if (!this.#tab.deliver(message, after)) this.#missed();
  }

  /** A topic is not to be had: nobody wants it any more. */
  #giveUp(topic: string): void {
    this.#wanted.delete(topic);
    for (const { topics } of this.#others.values()) topics.delete(topic);
  }

  #missed(): void {
    if (this.#role === "following") {
      this.#behind = true;
      this.#sayHere(true);
    } else {
      this.#connection.adopt(this.#tab.positions());
    }
  }
}

/** Whether a tab at `position` needs what came before `at`. */
function isBehind(position: Position, at: Position): boolean {
  return position.epoch !== at.epoch || isLater(at, position);
}
