// A machine of the tests' own: time, chance, sockets, tabs, locks. Nothing happens but in `run`.

import { setImmediate as turn } from "node:timers/promises";
import { Herald } from "../../dist/herald.js";

/** Numbers from 0 to 1 that look random; mulberry32. */
export function randomFrom(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let bits = Math.imul(seed ^ (seed >>> 15), seed | 1);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), bits | 61)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Lets promises and what follows from them go on until nothing moves. */
export async function settle() {
  for (let times = 0; times < 5; times++) await turn();
}

export class FakeTime {
  /** Unix time, milliseconds. */
  time = 1_700_000_000_000;
  #timers = new Set();

  after(milliseconds, then, mayRun = () => true) {
    const timer = { at: this.time + Math.max(0, milliseconds), then, mayRun };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** How many timers there are. */
  get timers() {
    return this.#timers.size;
  }

  /** Goes on by so many milliseconds, timer by timer. */
  async run(milliseconds) {
    const end = this.time + milliseconds;
    await settle();
    for (;;) {
      const due = [...this.#timers].filter((timer) => timer.at <= end && timer.mayRun());
      if (due.length === 0) break;
      const next = due.reduce((a, b) => (b.at < a.at ? b : a));
      this.#timers.delete(next);
      this.time = Math.max(this.time, next.at);
      next.then();
      await settle();
    }
    this.time = end;
  }
}

/** Web Locks of one origin. */
class FakeLocks {
  #queues = new Map();

  request(owner, name, { signal, steal }, held) {
    return new Promise((resolve, reject) => {
      const request = { owner, held, resolve, reject, state: "waiting" };
      const queue = this.#queues.get(name) ?? [];
      this.#queues.set(name, queue);
      if (steal) {
        const holder = queue.find(({ state }) => state === "held");
        if (holder) {
          queue.splice(queue.indexOf(holder), 1);
          holder.owner.later(() => holder.reject(new DOMException("stolen", "AbortError")));
        }
        queue.unshift(request);
      } else {
        queue.push(request);
      }
      signal?.addEventListener("abort", () => {
        if (request.state === "waiting") {
          queue.splice(queue.indexOf(request), 1);
          reject(new DOMException("aborted", "AbortError"));
        }
      });
      this.#grant(queue);
    });
  }

  #grant(queue) {
    const [first] = queue;
    if (!first || first.state === "held") return;
    first.state = "held";
    // The browser grants it to a tab that is frozen, too; that learns of it later.
    first.owner.later(() => {
      if (!queue.includes(first)) return;
      Promise.resolve(first.held({})).then(() => {
        this.#remove(queue, first);
        first.resolve();
      });
    });
  }

  #remove(queue, request) {
    const at = queue.indexOf(request);
    if (at >= 0) queue.splice(at, 1);
    this.#grant(queue);
  }

  /** A tab is gone, and its locks with it. */
  gone(owner) {
    for (const queue of this.#queues.values()) {
      for (const request of queue.filter((each) => each.owner === owner)) this.#remove(queue, request);
    }
  }
}

/** A browser: tabs that share locks, channels, storage and a server. */
export class FakeBrowser {
  time = new FakeTime();
  locks = new FakeLocks();
  channels = new Map();
  tabs = new Set();
  stored = new Map();

  constructor(server, random = randomFrom(1)) {
    this.server = server;
    this.random = random;
  }

  /** Opens a tab that is connected with these options. */
  open(options = {}) {
    const tab = new FakeTab(this, options);
    this.tabs.add(tab);
    return tab;
  }
}

class FakeTab {
  frozen = false;
  gone = false;
  visible = true;
  sockets = new Set();
  channels = new Set();
  told = { events: [], gaps: [], errors: [], states: [] };
  #waiting = [];
  #listeners = new Map();

  constructor(browser, options) {
    this.browser = browser;
    const { time, locks, stored } = browser;
    const tab = this;
    const environment = {
      clock: {
        now: () => time.time,
        elapsed: () => time.time,
        random: browser.random,
        after: (milliseconds, then) =>
          time.after(milliseconds, () => !tab.gone && then(), () => !tab.frozen),
      },
      WebSocket: class extends FakeSocket {
        constructor(url, protocols) {
          super(tab, url, protocols);
        }
      },
      fetch: undefined,
      locks: { request: (name, how, held) => locks.request(tab, name, how, held) },
      BroadcastChannel: class extends FakeChannel {
        constructor(name) {
          super(tab, name);
        }
      },
      localStorage: () => stored && {
        getItem: (key) => stored.get(key) ?? null,
        setItem: (key, value) => stored.set(key, value),
      },
      page: this.#page(),
      base: "https://app.test/page",
    };
    this.environment = environment;
    const { on, ...given } = options;
    this.herald = new Herald("wss://herald.test", { token: token("alice"), ...given }, environment);
    this.herald.on("*", on ?? ((event) => void this.told.events.push(event)));
    this.herald.onGap((gap) => void this.told.gaps.push(gap));
    this.herald.onError((error) => void this.told.errors.push(error));
    this.herald.onState((state) => void this.told.states.push(state));
  }

  #page() {
    const tab = this;
    const add = (type, listener) => this.#listeners.set(type, listener);
    const remove = (type) => this.#listeners.delete(type);
    return {
      addEventListener: add,
      removeEventListener: remove,
      document: {
        get visibilityState() {
          return tab.visible ? "visible" : "hidden";
        },
        addEventListener: add,
        removeEventListener: remove,
      },
    };
  }

  get names() {
    return this.told.states.map(({ name }) => name);
  }

  data() {
    return this.told.events.map(({ data }) => data);
  }

  /** Something happens to the page. */
  fire(type, event = {}) {
    this.#listeners.get(type)?.(event);
  }

  /** The browser lets it do something, in order, as soon as it is not frozen. */
  later(what) {
    this.#waiting.push(what);
    setImmediate(() => this.#next());
  }

  #next() {
    if (!this.frozen && !this.gone) this.#waiting.shift()?.();
  }

  freeze() {
    this.frozen = true;
  }

  /** It runs again; what was said to it meanwhile it hears now, or never. */
  thaw({ hears = true } = {}) {
    this.frozen = false;
    this.#waiting = this.#waiting.filter((what) => hears || !what.isBroadcast);
    for (let count = this.#waiting.length; count > 0; count--) setImmediate(() => this.#next());
    this.fire("resume");
  }

  /** It is gone, without a word. */
  crash() {
    this.gone = true;
    this.browser.tabs.delete(this);
    for (const socket of this.sockets) socket.server?.gone(socket);
    for (const channel of this.channels) channel.close();
    this.browser.locks.gone(this);
  }

  /** It is closed as people close tabs. */
  shut() {
    this.fire("pagehide", { persisted: false });
    this.crash();
  }
}

class FakeChannel {
  onmessage = null;

  constructor(tab, name) {
    this.tab = tab;
    const all = tab.browser.channels;
    this.members = all.get(name) ?? new Set();
    all.set(name, this.members);
    this.members.add(this);
    tab.channels.add(this);
  }

  postMessage(message) {
    const data = structuredClone(message);
    for (const other of this.members) {
      if (other === this) continue;
      const hear = () => other.members.has(other) && other.onmessage?.({ data });
      hear.isBroadcast = true;
      other.tab.later(hear);
    }
  }

  close() {
    this.members.delete(this);
    this.tab.channels.delete(this);
  }
}

class FakeSocket {
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;
  isOpen = false;

  constructor(tab, url, protocols) {
    Object.assign(this, { tab, url, protocols, server: tab.browser.server });
    tab.sockets.add(this);
    tab.later(() => {
      const code = this.server.refuses;
      if (code) return this.end(code);
      this.isOpen = true;
      this.server.met(this);
      this.onopen?.({});
    });
  }

  send(text) {
    if (!this.isOpen) throw new Error("not open");
    this.server.heard(this, JSON.parse(text));
  }

  close() {
    this.server.gone(this);
    this.isOpen = false;
    this.tab.sockets.delete(this);
  }

  /** The server says this. */
  say(message) {
    const data = JSON.stringify(message);
    this.tab.later(() => this.onmessage?.({ data }));
  }

  /** The server or the network ends it. */
  end(code, reason = "") {
    this.server.gone(this);
    this.tab.later(() => {
      this.isOpen = false;
      this.tab.sockets.delete(this);
      this.onclose?.({ code, reason });
    });
  }
}

/** A token as `alice` has it; nobody here verifies any. */
export function token(user, claims = {}) {
  const body = Buffer.from(JSON.stringify({ sub: user, exp: 2_000_000_000, ...claims })).toString("base64url");
  return `e30.${body}.x`;
}
