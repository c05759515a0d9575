// The client for Herald as one module, for pages without a build step:
//
//   import { connect } from "./herald-client.js";
//
// Generated from clients/js by `npm run bundle` there; change that, not this. How it is used is told
// in clients/js/README.md.


// src/backoff.ts
var FIRST = 0.25;
var LONGEST = 15;
var STABLE = 5;
function backoff(attempt) {
  return { least: 0, most: Math.min(LONGEST, FIRST * 2 ** attempt) };
}
function draw(wait, random) {
  return (wait.least + random() * (wait.most - wait.least)) * 1e3;
}

// src/close.ts
var LOST = 1006;
var UNAUTHORIZED = 3e3;
var STAY = /* @__PURE__ */ new Set([1e3, 1002, 1003, 1007, 1008, 1009, 3003]);
function advise(code) {
  if (code === UNAUTHORIZED) return "token";
  if (STAY.has(code) || code >= 4100 && code < 4200) return "stay";
  return code >= 4e3 && code < 4100 ? "now" : "backoff";
}
function reasonFor(code) {
  if (code === UNAUTHORIZED) return "unauthorized";
  if (code === 1012) return "restart";
  if (code === 1013 || code === 1011) return "busy";
  return code >= 4e3 && code < 4100 ? "slow" : "network";
}

// src/errors.ts
var HeraldError = class extends Error {
  name = "HeraldError";
  code;
  /** The channel that it concerns. */
  channel;
  constructor(code, message, details = {}) {
    super(message, "cause" in details ? { cause: details.cause } : void 0);
    this.code = code;
    this.channel = details.channel;
  }
};

// src/messages.ts
var NEEDED = {
  welcome: ["user"],
  event: ["channel", "id", "event"],
  gap: ["channel", "from", "to"],
  subscribed: ["channel", "position"],
  unsubscribed: ["channel"],
  error: ["code", "message"]
};
function isMessage(value) {
  const message = value;
  if (typeof message !== "object" || typeof message?.["type"] !== "string") return false;
  const needed = Object.hasOwn(NEEDED, message["type"]) ? NEEDED[message["type"]] : [];
  return needed.every((key) => typeof message[key] === "string");
}
var TOPIC = /^[A-Za-z0-9._:@/-]{1,200}$/;
var TOPIC_CHANNEL = "topic:";
function isTopic(name) {
  return typeof name === "string" && TOPIC.test(name);
}
function isChannel(name) {
  const topic = topicOf(name);
  return topic === void 0 ? /^(?:all|user:\P{Cc}{1,255})$/u.test(name) : isTopic(topic);
}
function channelOf(topic) {
  return TOPIC_CHANNEL + topic;
}
function topicOf(channel) {
  return channel.startsWith(TOPIC_CHANNEL) ? channel.slice(TOPIC_CHANNEL.length) : void 0;
}

// src/position.ts
var FORM = /^(\d{1,20})-(\d{1,20})$/;
var LIMIT = 1n << 64n;
function parsePosition(text) {
  const parts = typeof text === "string" ? FORM.exec(text) : null;
  if (!parts) return void 0;
  const epoch = BigInt(parts[1]);
  const seq = BigInt(parts[2]);
  return epoch < LIMIT && seq < LIMIT ? { epoch, seq, text: parts[0] } : void 0;
}
function isLater(a, b) {
  return a.epoch > b.epoch || a.epoch === b.epoch && a.seq > b.seq;
}
function isBeginning({ epoch, seq }) {
  return epoch === 0n && seq === 0n;
}
function toRecord(positions) {
  const record = /* @__PURE__ */ Object.create(null);
  for (const [channel, position] of positions) record[channel] = position.text;
  return record;
}
function fromRecord(record) {
  const positions = /* @__PURE__ */ new Map();
  if (typeof record === "object" && record !== null) {
    for (const [channel, text] of Object.entries(record)) {
      const position = parsePosition(text);
      if (position) positions.set(channel, position);
    }
  }
  return positions;
}

// src/protocol.ts
var REFUSALS = 3;
var REFRESH_AFTER = 0.9;
var REFRESH_AGAIN_AFTER = 0.5;
var REFRESH_LEAST = 1;
var SILENT_HEARTBEATS = 2;
var FINAL = /* @__PURE__ */ new Set(["forbidden", "too_many_subscriptions", "invalid_topic"]);
function isFinal(code) {
  return FINAL.has(code);
}
var Protocol = class {
  #state = "connecting";
  #why;
  #topics;
  #held;
  #token;
  #oldToken;
  #needsToken;
  /** Failures since a connection that lasted. */
  #failures = 0;
  #refusals = 0;
  /** The server's `after_ms`, for the next wait. */
  #afterMs = 0;
  #heartbeat;
  #expires;
  /** What this connection was asked for; undefined before `connect` was sent. */
  #asked;
  /** How many `unsubscribed` of a topic are on their way. */
  #leaving = /* @__PURE__ */ new Map();
  /** Topics to ask for again: the engine was away. */
  #again = /* @__PURE__ */ new Set();
  /** `token`: undefined where one must be asked for before the first attempt. */
  constructor(topics = [], positions = [], token) {
    this.#topics = new Set(topics);
    this.#held = new Map(positions);
    this.#token = token;
    this.#needsToken = token === void 0;
  }
  get state() {
    return this.#state;
  }
  /** Why it is closed. */
  get why() {
    return this.#why;
  }
  /** Whether an attempt must wait for a token. */
  get needsToken() {
    return this.#needsToken;
  }
  /** The last position of each channel. */
  get positions() {
    return this.#held;
  }
  /** The topics that are wanted, in the order in which they came to be. */
  get topics() {
    return this.#topics;
  }
  /** Whether this connection has to do with a topic, be it that it is about to leave it. */
  knows(topic) {
    const channel = channelOf(topic);
    return !!this.#asked?.has(topic) || this.isLeaving(channel) || this.#held.has(channel);
  }
  /** Whether the `unsubscribed` of a channel is on its way: what comes before is wanted no more. */
  isLeaving(channel) {
    return this.#leaving.has(topicOf(channel) ?? "");
  }
  /** The token has expired: an attempt needs another one. */
  expire() {
    this.#needsToken = true;
  }
  /** Go on from these positions; the connection must be opened anew for that. */
  adopt(positions) {
    for (const [channel, position] of positions) this.#held.set(channel, position);
  }
  // What the connection does
  /** It is open: say who this is. */
  opened() {
    const effects = nothing();
    if (this.#state !== "connecting") return effects;
    const connect2 = { type: "connect" };
    if (this.#token) connect2.token = this.#token;
    if (this.#held.size) connect2.positions = toRecord(this.#held);
    if (this.#topics.size) connect2.topics = [...this.#topics];
    this.#asked = new Set(this.#topics);
    effects.sends.push(connect2);
    return effects;
  }
  /** The server said this, at `now` (Unix seconds). */
  receive(message, now) {
    const effects = nothing();
    if (this.#state === "closed" || this.#asked === void 0) return effects;
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
        this.#oldToken = void 0;
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
  lost({ code, lasted }) {
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
  silentFor(seconds, lasted = seconds) {
    const limit = this.#heartbeat && SILENT_HEARTBEATS * this.#heartbeat;
    if (this.#state !== "live" || !limit || seconds < limit) return nothing();
    return { ...this.lost({ code: LOST, lasted }), drops: true };
  }
  // What time does
  /** The wait is over, or was cut short. */
  retry() {
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
  refreshDue() {
    return { ...nothing(), asksToken: this.#state === "live" };
  }
  // What the application does
  /** It gave a token (`undefined`: a cookie speaks for it); null: nobody is logged in. */
  token(token) {
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
  tokenFailed(now) {
    const effects = nothing();
    if (this.#state === "live") {
      this.#refresh(this.#expires, REFRESH_AGAIN_AFTER, now, effects);
    } else if (this.#state !== "closed" && this.#needsToken) {
      this.#waitFor(backoff(this.#failures), effects);
    }
    return effects;
  }
  /** It wants a topic, after `position` where one is given. */
  subscribe(topic, position) {
    const effects = nothing();
    if (this.#state === "closed") return effects;
    this.#topics.add(topic);
    if (position) this.#held.set(channelOf(topic), position);
    if (this.#state === "live" && !this.#asked.has(topic)) this.#subscribe(topic, effects);
    return effects;
  }
  /** It wants a topic no more. */
  unsubscribe(topic) {
    const effects = nothing();
    if (this.#state === "closed") return effects;
    this.#topics.delete(topic);
    if (this.#state === "live") this.#unsubscribe(topic, effects);
    else this.#held.delete(channelOf(topic));
    return effects;
  }
  /** It is done. */
  close() {
    if (this.#state !== "closed") this.#end("done");
    return nothing();
  }
  // What the server's messages mean
  #welcome(message, now, effects) {
    this.#state = "live";
    this.#refusals = 0;
    this.#afterMs = 0;
    this.#heartbeat = message.heartbeat;
    for (const [channel, joined] of Object.entries(message.channels ?? {})) {
      this.#join(channel, joined?.position);
    }
    this.#refresh(message.expires, REFRESH_AFTER, now, effects);
    for (const topic of [...this.#asked]) {
      if (!this.#topics.has(topic)) this.#unsubscribe(topic, effects);
    }
    for (const topic of this.#topics) {
      if (!this.#asked.has(topic)) this.#subscribe(topic, effects);
    }
  }
  #event(message, effects) {
    const id = parsePosition(message.id);
    const held = this.#held.get(message.channel);
    if (!id || held && !isLater(id, held)) return;
    this.#held.set(message.channel, id);
    effects.events.push(message);
  }
  #gap(message, effects) {
    const to = parsePosition(message.to);
    if (!to) return;
    this.#held.set(message.channel, to);
    effects.gaps.push(message);
  }
  #error(message, now, effects) {
    const { code, channel } = message;
    if (code === "unauthorized" || code === "unavailable" && channel === void 0) {
      if (this.#oldToken !== void 0) this.#token = this.#oldToken;
      this.#oldToken = void 0;
      this.#refresh(this.#expires, REFRESH_AGAIN_AFTER, now, effects);
      return;
    }
    effects.errors.push(message);
    if (channel === void 0) return;
    const topic = topicOf(channel);
    if (isFinal(code) && topic !== void 0) {
      this.#drop(topic);
    } else if (code === "not_subscribed") {
      this.#held.delete(channel);
      if (topic !== void 0) this.#isAnswer(topic);
    } else if (code === "unavailable" && topic !== void 0 && this.#topics.has(topic)) {
      this.#asked.delete(topic);
      this.#again.add(topic);
      effects.wait = backoff(0);
    }
  }
  #join(channel, position) {
    const read = parsePosition(position);
    const held = this.#held.get(channel);
    if (read && (!held || isBeginning(held))) this.#held.set(channel, read);
  }
  #left(channel) {
    const topic = topicOf(channel);
    this.#held.delete(channel);
    if (topic === void 0) return;
    if (!this.#isAnswer(topic)) this.#drop(topic);
  }
  /** Whether an `unsubscribe` of the topic was not answered yet; by this it is. */
  #isAnswer(topic) {
    const expected = this.#leaving.get(topic) ?? 0;
    if (expected > 1) this.#leaving.set(topic, expected - 1);
    else this.#leaving.delete(topic);
    return expected > 0;
  }
  #drop(topic) {
    this.#topics.delete(topic);
    this.#asked?.delete(topic);
    this.#held.delete(channelOf(topic));
  }
  #refresh(expires, part, now, effects) {
    this.#expires = expires;
    if (expires !== void 0) {
      effects.refreshIn = Math.max(REFRESH_LEAST, (expires - now) * part);
    }
  }
  // Steps that several share
  #subscribe(topic, effects) {
    const held = this.#held.get(channelOf(topic));
    this.#asked.add(topic);
    effects.sends.push({ type: "subscribe", topic, ...held && { position: held.text } });
  }
  #unsubscribe(topic, effects) {
    this.#asked.delete(topic);
    this.#leaving.set(topic, (this.#leaving.get(topic) ?? 0) + 1);
    effects.sends.push({ type: "unsubscribe", topic });
  }
  #waitFor(wait, effects) {
    const later = this.#afterMs / 1e3;
    this.#afterMs = 0;
    this.#failures++;
    this.#state = "waiting";
    effects.wait = { least: wait.least + later, most: wait.most + later };
    effects.asksToken = this.#needsToken;
  }
  #forgetConnection() {
    for (const topic of this.#leaving.keys()) {
      if (!this.#topics.has(topic)) this.#held.delete(channelOf(topic));
    }
    this.#leaving.clear();
    this.#again.clear();
    this.#asked = void 0;
    this.#oldToken = void 0;
    this.#heartbeat = void 0;
  }
  #end(why) {
    this.#forgetConnection();
    this.#state = "closed";
    this.#why = why;
  }
};
function nothing() {
  return { drops: false, sends: [], events: [], gaps: [], errors: [], asksToken: false };
}

// src/timers.ts
var Timers = class {
  #clock;
  #cancels = /* @__PURE__ */ new Map();
  constructor(clock) {
    this.#clock = clock;
  }
  /** Calls `then` after so many milliseconds. */
  start(name, milliseconds, then) {
    this.stop(name);
    const cancel = this.#clock.after(milliseconds, () => {
      this.#cancels.delete(name);
      then();
    });
    this.#cancels.set(name, cancel);
  }
  stop(name) {
    this.#cancels.get(name)?.();
    this.#cancels.delete(name);
  }
  stopAll() {
    for (const cancel of this.#cancels.values()) cancel();
    this.#cancels.clear();
  }
};

// src/token.ts
var ANSWER_TIMEOUT = 3e4;
var FORM2 = /^[\w.~+/=-]+$/;
function checkToken(token) {
  if (token === null) return token;
  const text = typeof token === "string" ? token.trim() : "";
  if (FORM2.test(text)) return text;
  let said = typeof token;
  if (typeof token === "string") said = JSON.stringify(text.slice(0, 50));
  if (token instanceof Promise) said = "a promise: give the function itself";
  throw new TypeError(`A token is a JWT, or null where nobody is logged in, not ${said}`);
}
async function askToken(source, clock) {
  if (typeof source !== "function") return source;
  let stop = () => {
  };
  const timeout = new Promise((_, reject) => {
    const late = () => reject(new Error("token() did not answer in 30 seconds"));
    stop = clock.after(ANSWER_TIMEOUT, late);
  });
  try {
    return checkToken(await Promise.race([source(), timeout]));
  } finally {
    stop();
  }
}
function readClaims(token) {
  const claims = { topics: [] };
  try {
    const body = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
    const said = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof said["sub"] === "string") claims.user = said["sub"];
    if (typeof said["iat"] === "number") claims.issued = said["iat"];
    if (typeof said["exp"] === "number") claims.expires = said["exp"];
    if (Array.isArray(said["topics"])) {
      claims.topics = said["topics"].filter((name) => typeof name === "string" && !name.endsWith("*"));
    }
  } catch {
  }
  return claims;
}

// src/connection.ts
var PROBE_TIMEOUT = 5e3;
var ABOUT_CHANNELS = /* @__PURE__ */ new Set(["welcome", "subscribed", "unsubscribed"]);
var AT_ONCE = 4e3;
var TOKEN_FRESH = 1e3;
var TOLD_AT = 2;
var A_MINUTE = 60;
var Connection = class {
  #options;
  #listener;
  #protocol;
  #timers;
  #state = { name: "connecting" };
  #claims = { topics: [] };
  #link;
  /** A link that is opened to see whether its transport works. */
  #scout;
  #transport = "websocket";
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
  constructor(options, listener) {
    this.#options = options;
    this.#listener = listener;
    this.#protocol = new Protocol(options.topics);
    this.#timers = new Timers(options.clock);
  }
  get positions() {
    return this.#protocol.positions;
  }
  get topics() {
    return this.#protocol.topics;
  }
  get state() {
    return this.#state;
  }
  start() {
    void this.#begin();
  }
  subscribe(topic, position) {
    const isAnew = position && this.#protocol.knows(topic);
    this.#do(this.#protocol.subscribe(topic, isAnew ? void 0 : position));
    if (isAnew) this.adopt([[channelOf(topic), position]]);
  }
  unsubscribe(topic) {
    this.#do(this.#protocol.unsubscribe(topic));
  }
  /** Go on from these positions: at the next attempt, or at once on a connection anew. */
  adopt(positions) {
    this.#protocol.adopt(positions);
    if (this.#link) this.#leave(AT_ONCE);
  }
  wake(why) {
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
  suspend() {
    if (this.#suspended) return;
    this.#suspended = true;
    this.#attempt++;
    if (this.#protocol.state !== "waiting") this.#leave(AT_ONCE);
    this.#timers.stopAll();
  }
  resume() {
    if (!this.#suspended) return;
    this.#suspended = false;
    if (this.#protocol.state !== "closed") this.#retry();
  }
  close() {
    this.#do(this.#protocol.close());
    this.#settle();
  }
  // Attempts
  #retry() {
    this.#timers.stop("retry");
    this.#do(this.#protocol.retry());
    this.#settle();
    if (this.#protocol.state === "connecting") void this.#begin();
  }
  async #begin() {
    const attempt = ++this.#attempt;
    const overtaken = () => attempt !== this.#attempt || this.#protocol.state !== "connecting";
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
  #checkExpiry() {
    const { expires } = this.#claims;
    const expired = expires !== void 0 && expires <= this.#now();
    const age = this.#options.clock.elapsed() - this.#answeredAt;
    if (expired && age > TOKEN_FRESH) this.#protocol.expire();
  }
  /** Asks for a token and gives it to the core; a failure too. */
  async #ask() {
    const { clock, token: source } = this.#options;
    const timer = `token ${++this.#asked}`;
    const after = (milliseconds, then) => {
      this.#timers.start(timer, milliseconds, then);
      return () => this.#timers.stop(timer);
    };
    let token;
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
  #tokenFailed(cause) {
    const { state } = this.#protocol;
    if (state === "connecting" || state === "waiting") {
      const said = cause instanceof Error ? cause.message : String(cause);
      this.#listener.failed(new HeraldError("token", `token() failed: ${said}`, { cause }));
    }
    this.#do(this.#protocol.tokenFailed(this.#now()), "token");
  }
  #open(transport) {
    this.#transport = transport;
    this.#reached = false;
    const mine = () => this.#link === link;
    const link = this.#openLink(transport, {
      opened: () => mine() && this.#do(this.#protocol.opened()),
      heard: () => mine() && this.#heard(),
      said: (message) => mine() && this.#receive(message),
      babbled: (text) => mine() && this.#babbled(text),
      closed: (code, reason) => mine() && this.#closed(code, reason)
    });
    this.#link = link;
    if (!link) {
      this.#closed(LOST, "");
      return;
    }
    this.#timers.start("welcome", this.#options.timeout, () => this.#drop(LOST));
  }
  #openLink(transport, listener) {
    try {
      return this.#options.open(transport, listener, this.#protocol);
    } catch (cause) {
      this.#untold = 0;
      this.#listener.failed(new HeraldError("transport", `${transport}: ${cause}`, { cause }));
      return void 0;
    }
  }
  // What a link tells
  #heard() {
    this.#timers.stop("probe");
    this.#heardAt = this.#options.clock.elapsed();
  }
  #receive(message) {
    if (!this.#reached) this.#reach();
    const channel = "channel" in message ? message.channel : void 0;
    const after = channel === void 0 ? void 0 : this.#protocol.positions.get(channel);
    const isLeft = channel !== void 0 && this.#protocol.isLeaving(channel);
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
  #welcomed(message) {
    this.#user = message.user;
    this.#untold = 0;
    this.#timers.stop("welcome");
    this.#liveSince = this.#options.clock.elapsed();
    this.#watchSilence(message.heartbeat);
  }
  /** The server's time as far as it is known, Unix seconds. */
  #now() {
    return this.#options.clock.now() / 1e3 + this.#skew;
  }
  /** The server takes a token to be good that has expired by our clock: so that is fast. */
  #setSkew(expires) {
    if (expires === void 0 || this.#now() < expires) return;
    const { issued } = this.#claims;
    const before = issued !== void 0 && issued < expires ? issued : expires - A_MINUTE;
    this.#skew += before - this.#now();
  }
  #babbled(text) {
    const start = text.slice(0, 100);
    this.#listener.failed(new HeraldError("message", `The server said what is no message: ${start}`));
  }
  #reach() {
    this.#reached = true;
    const { clock, ladder } = this.#options;
    const climb = ladder.reached(this.#transport, clock.now());
    if (climb === void 0 || ladder.first === "sse") return;
    this.#timers.start("climb", climb, () => this.#climb());
  }
  #closed(code, reason) {
    this.#link = void 0;
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
  #lost(code, reason, why = reasonFor(code)) {
    const { clock } = this.#options;
    const lasted = this.#protocol.state === "live" ? (clock.elapsed() - this.#liveSince) / 1e3 : 0;
    this.#loss = { code, reason };
    this.#stopTimers();
    if (code === LOST && this.#untold > 0 && --this.#untold === 0) {
      const address = this.#options.name.replace(/^ws(.*)\/v1\/ws.*/, "http$1");
      const said = reason.trim() || "no connection";
      const message = `Cannot connect to ${address}, and goes on trying: ${said}`;
      this.#listener.failed(new HeraldError("network", message));
    }
    this.#do(this.#protocol.lost({ code, lasted }), why);
    this.#settle();
  }
  /** The link is dead: go on as if it had been closed. */
  #drop(code) {
    this.#link?.close(true);
    this.#closed(code, "no sign of life");
  }
  /** End the link, which is none the worse. */
  #leave(code) {
    this.#link?.close();
    this.#link = void 0;
    this.#lost(code, "", "network");
  }
  // Life
  #watchSilence(heartbeat) {
    const limit = 2 * heartbeat * 1e3;
    if (!(limit > 0)) return;
    const silent = this.#options.clock.elapsed() - this.#heardAt;
    this.#timers.start("silence", Math.max(limit - silent, 0) + 1, () => {
      this.#checkSilence();
      if (this.#protocol.state === "live") this.#watchSilence(heartbeat);
    });
  }
  #checkSilence() {
    const elapsed2 = this.#options.clock.elapsed();
    const silent = (elapsed2 - this.#heardAt) / 1e3;
    const effects = this.#protocol.silentFor(silent, (elapsed2 - this.#liveSince) / 1e3);
    if (!effects.drops) return;
    this.#link?.close(true);
    this.#link = void 0;
    this.#stopTimers();
    this.#do(effects, "network");
    this.#settle();
  }
  /** On the second transport: see whether the first works by now, and change to it if so. */
  #climb() {
    const { clock, ladder } = this.#options;
    if (this.#protocol.state !== "live") return;
    const end = (works) => {
      this.#timers.stop("climb");
      this.#scout?.close();
      this.#scout = void 0;
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
      said() {
      },
      babbled() {
      },
      closed: () => this.#scout && end(false)
    });
    this.#timers.start("climb", this.#options.timeout, () => end(false));
  }
  // Effects
  #do(effects, why = "network") {
    for (const message of effects.sends) this.#send(message);
    const { clock } = this.#options;
    if (effects.refreshIn !== void 0) {
      const due = () => this.#do(this.#protocol.refreshDue());
      this.#timers.start("refresh", effects.refreshIn * 1e3, due);
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
  #send(message) {
    try {
      this.#link?.send(message);
    } catch {
    }
  }
  // State
  /** Show the core's state. */
  #settle() {
    const { state, why } = this.#protocol;
    if (state === this.#state.name) return;
    if (state === "live") {
      this.#setState({ name: "live", user: this.#user, transport: this.#transport });
    } else if (state === "connecting") {
      this.#setState({ name: "connecting" });
    } else if (state === "closed") {
      this.#end(why);
    }
  }
  #end(why) {
    this.#attempt++;
    this.#timers.stopAll();
    this.#scout?.close();
    this.#scout = void 0;
    this.#link?.close();
    this.#link = void 0;
    const { code, reason } = this.#loss;
    const byServer = why === "refused" || why === "unauthorized";
    this.#setState({ name: "closed", why, ...byServer && { code, reason } });
    if (byServer) {
      let said = "The server refused token after token";
      if (this.#options.token === void 0) said = "There is no option token, and no cookie that counts";
      if (why === "refused") said = "The server refuses";
      const hint = code === UNAUTHORIZED || code === 3003 ? "" : " (docs/protocol.md, Close codes)";
      this.#listener.failed(new HeraldError(why, `${said}: ${code} ${reason}${hint}`));
    }
  }
  #setState(state) {
    this.#state = state;
    this.#listener.state(state);
  }
  #stopTimers() {
    for (const name of ["refresh", "welcome", "silence", "probe", "climb"]) {
      this.#timers.stop(name);
    }
    this.#scout?.close();
    this.#scout = void 0;
  }
};

// src/endpoints.ts
function endpointsOf(url, base) {
  const read = readUrl(url, base);
  const scheme = /^(?:http|ws)(s?):$/.exec(read?.protocol ?? "");
  if (!read || !scheme) {
    throw new TypeError(`Not an address: ${JSON.stringify(url)} (as https://herald.example)`);
  }
  const root = read.pathname.replace(/\/v1\/(?:ws|stream|events)\/?$|\/+$/, "");
  const at = (kind, path) => `${kind}${scheme[1]}://${read.host}${root}${path}${read.search}`;
  return { websocket: at("ws", "/v1/ws"), sse: at("http", "/v1/stream") };
}
function readUrl(url, base) {
  if (typeof url !== "string" ? !(url instanceof URL) : /^[^/?#]+:\d/.test(url)) return void 0;
  try {
    return new URL(url, base);
  } catch {
    return void 0;
  }
}

// src/clock.ts
var LONGEST_TIMER = 2 ** 31 - 1;
var systemClock = {
  now: () => Date.now(),
  random: () => Math.random(),
  elapsed,
  after(milliseconds, then) {
    const timer = setTimeout(then, Math.min(milliseconds, LONGEST_TIMER));
    return () => clearTimeout(timer);
  }
};
var passed = 0;
var wall = 0;
var steady = 0;
function elapsed() {
  const [wallNow, steadyNow] = [Date.now(), performance.now()];
  passed += Math.max(wallNow - wall, steadyNow - steady, 0);
  [wall, steady] = [wallNow, steadyNow];
  return passed;
}

// src/environment.ts
function thisMachine() {
  const { document, location, navigator } = globalThis;
  return {
    clock: systemClock,
    WebSocket: globalThis.WebSocket,
    fetch: globalThis.fetch?.bind(globalThis),
    locks: navigator?.locks,
    BroadcastChannel: globalThis.BroadcastChannel,
    localStorage: () => globalThis.localStorage,
    page: document ? globalThis : void 0,
    base: location?.href
  };
}

// src/handlers.ts
var Handlers = class {
  /** Replaced, not changed: a handler may add and remove while they are called. */
  #all = [];
  get empty() {
    return this.#all.length === 0;
  }
  /** Adding a function twice has it called twice. */
  add(handler) {
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
  call(value, blame) {
    let pending;
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
};
function isThenable(value) {
  return typeof value?.then === "function";
}

// src/progress.ts
var Progress = class {
  #settled = /* @__PURE__ */ new Map();
  /** By channel, in order; the first is not done. */
  #steps = /* @__PURE__ */ new Map();
  #onChange;
  constructor(onChange) {
    this.#onChange = onChange;
  }
  get positions() {
    return this.#settled;
  }
  /** The application was given what is at this position; it is dealt with when `pending` is settled. */
  take(channel, position, pending) {
    const steps = this.#steps.get(channel);
    if (!pending && !steps) {
      this.#settle(channel, position);
      return;
    }
    const last = steps?.at(-1);
    if (!pending && last?.done) {
      last.position = position;
      return;
    }
    const step = { position, done: !pending };
    if (steps) steps.push(step);
    else this.#steps.set(channel, [step]);
    void pending?.then(() => {
      step.done = true;
      this.#advance(channel);
    });
  }
  /** Begin here. */
  set(channel, position) {
    this.#steps.delete(channel);
    this.#settle(channel, position);
  }
  forget(channel) {
    this.#steps.delete(channel);
    if (this.#settled.delete(channel)) this.#onChange();
  }
  #advance(channel) {
    const steps = this.#steps.get(channel);
    let last;
    while (steps?.[0]?.done) last = steps.shift();
    if (!last) return;
    if (steps.length === 0) this.#steps.delete(channel);
    this.#settle(channel, last.position);
  }
  #settle(channel, position) {
    this.#settled.set(channel, position);
    this.#onChange();
  }
};

// src/inbox.ts
var Inbox = class {
  #application;
  #held = /* @__PURE__ */ new Map();
  #progress;
  /** `onChange`: called whenever `settled` is another. */
  constructor(application, onChange) {
    this.#application = application;
    this.#progress = new Progress(onChange);
  }
  /** The last position of each channel that the application was given. */
  get held() {
    return this.#held;
  }
  /** The last position of each channel that it has dealt with, and with all before it. */
  get settled() {
    return this.#progress.positions;
  }
  /** Begin here in the channels where nothing is held. */
  begin(positions) {
    for (const [channel, position] of positions) {
      if (!this.#held.has(channel)) this.set(channel, position);
    }
  }
  set(channel, position) {
    this.#held.set(channel, position);
    this.#progress.set(channel, position);
  }
  forget(channel) {
    this.#held.delete(channel);
    this.#progress.forget(channel);
  }
  /**
   * Takes a message that follows `after` in its channel; undefined where only what is to be taken
   * is given. False where something before it was missed: then it is not taken.
   */
  take(message, after) {
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
  #join(channel, text) {
    const position = parsePosition(text);
    const held = this.#held.get(channel);
    if (position && (!held || isBeginning(held))) this.set(channel, position);
  }
  #event(message, after) {
    const { channel } = message;
    const id = parsePosition(message.id);
    const held = this.#held.get(channel);
    if (held && after) {
      if (held.epoch !== after.epoch || isLater(after, held)) return false;
      if (!isLater(id, held)) return true;
    }
    this.#held.set(channel, id);
    this.#progress.take(channel, id, this.#application.event(message));
    return true;
  }
  #gap(message, after) {
    const { channel } = message;
    const to = parsePosition(message.to);
    const held = this.#held.get(channel);
    if (held && after && held.text !== message.from) {
      if (held.epoch === to.epoch && !isLater(to, held)) return;
      message = { ...message, from: held.text };
    }
    this.#held.set(channel, to);
    this.#progress.take(channel, to, this.#application.gap(message));
  }
};

// src/ladder.ts
var BLOCKED = 2;
var KEEP = 5 * 6e4;
var KEEP_LONGEST = 60 * 6e4;
var Ladder = class {
  first;
  #second;
  #failures = 0;
  #keep = KEEP;
  /** The second is kept to until then; 0: it is not. */
  #until = 0;
  constructor(transports) {
    [this.first, this.#second] = transports;
  }
  /** What to begin an attempt with, at `now` (milliseconds). */
  begin(now) {
    return this.#second && now < this.#until ? this.#second : this.first;
  }
  /** An attempt did not reach the server; gives back what to try at once, if anything. */
  failed(transport) {
    if (transport !== this.first) {
      this.#until = 0;
      return void 0;
    }
    this.#failures++;
    return this.#failures >= BLOCKED ? this.#second : void 0;
  }
  /**
   * The server was reached, at `now`. Gives back after how many milliseconds to look whether the
   * first transport works again; undefined where it does.
   */
  reached(transport, now) {
    if (transport === this.first) {
      this.#failures = 0;
      this.#keep = KEEP;
      this.#until = 0;
      return void 0;
    }
    if (now >= this.#until) this.#until = now + this.#keep;
    return this.#until - now;
  }
  /** The first transport was looked at, at `now`, and is still blocked. As `reached`. */
  stillBlocked(now) {
    this.#keep = Math.min(this.#keep * 2, KEEP_LONGEST);
    this.#until = now + this.#keep;
    return this.#keep;
  }
};

// src/options.ts
var NAMES = Object.keys({
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
  parse: 0
});
var TRANSPORTS = ["websocket", "sse"];
function checkTopic(name) {
  if (isTopic(name)) return name;
  const form = "1 to 200 of A-Z a-z 0-9 . _ : @ / -";
  throw new TypeError(`Not a topic's name: ${JSON.stringify(name)} (${form})`);
}
function complete(options, possible) {
  checkNames(options);
  const { token, storage } = options;
  return {
    token: token === void 0 || typeof token === "function" ? token : checkToken(token),
    topics: [...new Set(checkList("topics", options.topics))].map(checkTopic),
    positions: checkChannels(fromRecord(options.positions)),
    storage: checkStorage(storage),
    shared: options.shared ?? false,
    transports: chooseTransports(checkList("transports", options.transports), possible),
    user: options.user,
    buffer: checkNumber("buffer", options.buffer ?? 1e3),
    timeout: checkNumber("timeout", options.timeout ?? 15e3),
    parse: options.parse ?? JSON.parse
  };
}
function checkNames(options) {
  if (typeof options !== "object" || options === null) throw new TypeError("The options are an object, as { token }");
  for (const name of Object.keys(options)) {
    if (NAMES.includes(name)) continue;
    const far = (known) => distance(name.toLowerCase(), known.toLowerCase());
    const near = NAMES.reduce((best, known) => far(known) < far(best) ? known : best);
    const hint = far(near) < Math.min(3, name.length - 1) ? `: did you mean ${near}?` : "";
    throw new TypeError(`connect has no option ${name}${hint}`);
  }
}
function distance(word, other) {
  let row = [...Array(other.length + 1).keys()];
  for (const [number, letter] of [...word].entries()) {
    const next = [number + 1];
    for (let at = 0; at < other.length; at++) {
      next.push(Math.min(row[at] + +(letter !== other[at]), row[at + 1] + 1, next[at] + 1));
    }
    row = next;
  }
  return row.at(-1);
}
function checkNumber(name, value) {
  if (value > 0) return value;
  throw new TypeError(`The option ${name} is a number above 0, not ${value}`);
}
function checkChannels(positions) {
  for (const name of positions.keys()) {
    if (isChannel(name)) continue;
    throw new TypeError(`Not a channel: ${JSON.stringify(name)} (as user:alice, topic:news or all)`);
  }
  return positions;
}
function checkList(name, list) {
  if (list === void 0 || Array.isArray(list)) return list;
  throw new TypeError(`The option ${name} is a list, not ${JSON.stringify(list)}`);
}
function checkStorage(storage) {
  const isOne = storage === void 0 || storage === "local" || typeof storage?.setItem === "function";
  if (isOne) return storage;
  throw new TypeError('The option storage is "local", or an object like localStorage');
}
function chooseTransports(wanted, possible) {
  const unknown = wanted?.find((name) => !TRANSPORTS.includes(name));
  if (unknown !== void 0 || wanted?.length === 0) {
    const given = JSON.stringify(wanted);
    throw new TypeError(`The option transports is a list of "websocket" and "sse", not ${given}`);
  }
  const [first, second] = [...new Set(wanted ?? TRANSPORTS)].filter((name) => possible[name]);
  if (first) return [first, second];
  throw new Error(
    'There is no WebSocket here (Node has one from version 22 on): pass one, as in connect(url, { WebSocket }) with `import WebSocket from "ws"`, or allow the transport "sse", which needs `fetch`.'
  );
}

// src/page.ts
function watchPage(page, listener) {
  const online = () => listener.wake("online");
  const offline = () => listener.wake("offline");
  const thaw = () => listener.wake("visible");
  const leave = () => listener.suspend();
  const show = ({ persisted }) => {
    if (persisted) listener.resume();
  };
  const visibility = () => {
    if (page.document.visibilityState === "visible") listener.wake("visible");
    else listener.hidden();
  };
  page.addEventListener("online", online);
  page.addEventListener("offline", offline);
  page.addEventListener("pagehide", leave);
  page.addEventListener("pageshow", show);
  page.document.addEventListener("visibilitychange", visibility);
  page.document.addEventListener("resume", thaw);
  return () => {
    page.removeEventListener("online", online);
    page.removeEventListener("offline", offline);
    page.removeEventListener("pagehide", leave);
    page.removeEventListener("pageshow", show);
    page.document.removeEventListener("visibilitychange", visibility);
    page.document.removeEventListener("resume", thaw);
  };
}

// src/reader.ts
var Reader = class {
  #limit;
  #onEnd;
  #queue = [];
  #waiters = [];
  /** Tells that the event that the loop has now was dealt with. */
  #done;
  #ended = false;
  #failure;
  /** `onEnd`: called once, when nothing must be pushed any more. */
  constructor(limit, onEnd) {
    this.#limit = limit;
    this.#onEnd = onEnd;
  }
  [Symbol.asyncIterator]() {
    return this;
  }
  /** Gives it an event; the promise is fulfilled when that was dealt with. */
  push(value) {
    if (this.#ended) return void 0;
    if (this.#queue.length >= this.#limit) {
      const message = `The loop was too slow: ${this.#limit} events waited for it`;
      this.#failure = new HeraldError("overflow", message);
      this.end();
      return void 0;
    }
    return new Promise((done) => {
      this.#queue.push({ value, done });
      this.#serve();
    });
  }
  next() {
    this.#done?.();
    this.#done = void 0;
    return new Promise((resolve, reject) => {
      this.#waiters.push({ resolve, reject });
      this.#serve();
    });
  }
  /** The loop was left. */
  return() {
    this.#failure = void 0;
    for (const { done } of this.#queue) done();
    this.#queue = [];
    this.#done?.();
    this.#done = void 0;
    this.end();
    return Promise.resolve({ done: true, value: void 0 });
  }
  /** No event follows those that wait; `now`: nor are those given, and they are not dealt with. */
  end(now = false) {
    if (now) this.#queue = [];
    if (!this.#ended) {
      this.#ended = true;
      this.#onEnd();
    }
    this.#serve();
  }
  #serve() {
    while (this.#waiters.length && (this.#queue.length || this.#ended)) {
      const waiter = this.#waiters.shift();
      const item = this.#queue.shift();
      if (item) {
        this.#done?.();
        this.#done = item.done;
        waiter.resolve({ done: false, value: item.value });
      } else if (this.#failure) {
        waiter.reject(this.#failure);
        this.#failure = void 0;
      } else {
        waiter.resolve({ done: true, value: void 0 });
      }
    }
  }
};

// src/event-stream.ts
var EventStreamParser = class {
  #rest = "";
  #data;
  #started = false;
  /** Takes the next piece of text; gives back the messages that it completes. */
  push(text) {
    if (!this.#started && text) {
      this.#started = true;
      if (text.startsWith("\uFEFF")) text = text.slice(1);
    }
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    const messages = [];
    for (const line of lines) this.#line(line, messages);
    return messages;
  }
  #line(line, messages) {
    if (line === "") {
      if (this.#data !== void 0) messages.push(this.#data);
      this.#data = void 0;
    } else if (line === "data" || line.startsWith("data:")) {
      const value = line.slice(line[5] === " " ? 6 : 5);
      this.#data = this.#data === void 0 ? value : `${this.#data}
${value}`;
    }
  }
};

// src/link.ts
function readMessage(text, parse) {
  try {
    const message = typeof text === "string" ? parse(text) : void 0;
    if (isMessage(message)) return message;
  } catch {
  }
  return void 0;
}

// src/sse.ts
var CODES = /* @__PURE__ */ new Map([
  [400, 1008],
  [401, UNAUTHORIZED],
  [403, 3003],
  [429, 4101],
  [503, 1013]
]);
var PROBLEM = "application/problem+json";
var PROBLEM_LIMIT = 16384;
var PROBLEM_TIMEOUT = 2e3;
var DETAIL_LIMIT = 500;
var TRY_AGAIN = 1013;
var TOO_MANY = 4101;
function openStream(options, listener) {
  return new Stream(options, listener);
}
var Stream = class {
  #options;
  #listener;
  #token;
  /** Topics whose `unsubscribed` is yet to be told. */
  #left = [];
  /** The stream that is read; aborted where it is no longer. */
  #reading;
  #welcomed = false;
  #closed = false;
  #cancel;
  constructor(options, listener) {
    this.#options = options;
    this.#listener = listener;
    this.#cancel = options.clock.after(0, () => listener.opened());
  }
  send(message) {
    switch (message.type) {
      case "connect":
        this.#token = message.token;
        this.#read();
        break;
      case "auth":
        this.#token = message.token;
        this.#readAgain();
        break;
      case "subscribe":
        this.#readAgain();
        break;
      case "unsubscribe":
        this.#left.push(message.topic);
        this.#readAgain();
        break;
    }
  }
  close() {
    this.#closed = true;
    this.#cancel();
    this.#reading?.abort();
  }
  probe() {
    return false;
  }
  /** What the application asks for in one go makes one new stream. */
  #readAgain() {
    this.#cancel();
    this.#cancel = this.#options.clock.after(0, () => {
      const left = this.#left;
      this.#left = [];
      for (const topic of left) {
        this.#listener.said({ type: "unsubscribed", channel: channelOf(topic) });
      }
      if (!this.#closed) this.#read();
    });
  }
  #read() {
    this.#reading?.abort();
    const reading = new AbortController();
    this.#reading = reading;
    this.#stream(reading.signal).then(
      ([code, reason]) => this.#ended(reading, code, reason),
      (error) => this.#ended(reading, LOST, tell(error))
    );
  }
  #ended(reading, code, reason) {
    if (this.#closed || this.#reading !== reading) return;
    this.close();
    this.#listener.closed(code, reason);
  }
  /** Reads one stream; gives back how it ended. */
  async #stream(signal) {
    const headers = { accept: "text/event-stream" };
    if (this.#token) headers["authorization"] = `Bearer ${this.#token}`;
    const response = await this.#options.fetch(this.#url(), {
      headers,
      signal,
      cache: "no-store",
      credentials: this.#token ? "omit" : "include"
    });
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
    if (!response.ok || !response.body || !isStream) {
      const detail = await this.#readDetail(response);
      return signal.aborted ? [LOST, ""] : this.#refused(response, detail);
    }
    const { parse } = this.#options;
    const parser = new EventStreamParser();
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (; ; ) {
      const { done, value } = await reader.read();
      if (signal.aborted) return [LOST, ""];
      if (done) return [LOST, "the stream was cut off"];
      this.#listener.heard();
      for (const text of parser.push(decoder.decode(value, { stream: true }))) {
        const message = readMessage(text, parse);
        if (message?.type === "close") {
          await reader.cancel().catch(() => {
          });
          return [message.code, message.reason];
        }
        if (message?.type === "welcome") this.#welcomed = true;
        if (message) this.#listener.said(message);
        else this.#listener.babbled(text);
        if (signal.aborted) return [LOST, ""];
      }
    }
  }
  #refused(response, detail) {
    const reason = `HTTP ${response.status}${detail && `: ${detail}`}`;
    let code = CODES.get(response.status) ?? LOST;
    if (!isProblem(response) && advise(code) === "stay") code = LOST;
    if (code === TOO_MANY && this.#welcomed) return [TRY_AGAIN, reason];
    const seconds = Number(response.headers.get("retry-after"));
    if (code === TRY_AGAIN && seconds > 0) {
      this.#listener.said({ type: "reconnect", after_ms: seconds * 1e3 });
    }
    return [code, reason];
  }
  /** What a problem document says is wrong; empty where there is none that can be read. */
  async #readDetail(response) {
    const reader = response.body?.getReader();
    if (!reader) return "";
    const give = () => void reader.cancel().catch(() => {
    });
    const stop = this.#options.clock.after(PROBLEM_TIMEOUT, give);
    try {
      const decoder = new TextDecoder();
      let text = "";
      for (let size = 0; isProblem(response) && size <= PROBLEM_LIMIT; ) {
        const { done, value } = await reader.read();
        if (done) {
          const { detail } = JSON.parse(text);
          return typeof detail === "string" ? detail.slice(0, DETAIL_LIMIT) : "";
        }
        size += value.length;
        text += decoder.decode(value, { stream: true });
      }
    } catch {
    } finally {
      stop();
      give();
    }
    return "";
  }
  #url() {
    const url = new URL(this.#options.url);
    const { topics, positions } = this.#options.wanted;
    if (topics.size) url.searchParams.set("topics", [...topics].join(","));
    for (const [channel, position] of positions) {
      url.searchParams.append("since", `${channel}@${position.text}`);
    }
    return url.href;
  }
};
function isProblem(response) {
  return !!response.headers.get("content-type")?.startsWith(PROBLEM);
}
function tell(error) {
  const { cause } = error;
  return cause instanceof Error ? `${error}: ${cause.message || cause.name}` : String(error);
}

// src/storage.ts
var GATHER = 200;
var PositionStore = class {
  #storage;
  #key;
  #clock;
  #positions;
  #failed;
  #cancel;
  /** `failed`: told of the first failure after a success. */
  constructor(storage, key, clock, positions, failed) {
    this.#storage = storage;
    this.#key = key;
    this.#clock = clock;
    this.#positions = positions;
    this.#failed = failed;
  }
  /** What was stored; what cannot be read counts as nothing. */
  load() {
    try {
      return fromRecord(JSON.parse(this.#storage.getItem(this.#key) ?? "{}"));
    } catch {
      return /* @__PURE__ */ new Map();
    }
  }
  /** The positions have changed: store them soon. */
  changed() {
    this.#cancel ??= this.#clock.after(GATHER, () => this.flush());
  }
  /** Store what has changed, now. */
  flush() {
    if (!this.#cancel) return;
    this.#cancel();
    this.#cancel = void 0;
    try {
      this.#storage.setItem(this.#key, JSON.stringify(toRecord(this.#positions())));
    } catch (cause) {
      this.#failed(cause);
    }
  }
};

// src/tabs.ts
var SILENCE = 15e3;
var ANSWER = 5e3;
var LOOK = 2500;
var LATE = 1e3;
var VERSION = 1;
var Tabs = class {
  #options;
  #clock;
  #tab;
  #connection;
  #timers;
  #id;
  #wanted;
  #left = /* @__PURE__ */ new Set();
  /** Topics that this tab's token names; undefined where that cannot be read. */
  #granted;
  #user;
  #role = "outside";
  #lock = "";
  #broadcast;
  /** Ends this tab's being among the others. */
  #membership = new AbortController();
  /** Gives the lock back, or stops waiting for it. */
  #resign = () => {
  };
  /** Fulfilled when this tab leads. */
  #elected = Promise.resolve();
  /** Leading: what each other tab wants. */
  #others = /* @__PURE__ */ new Map();
  /** Following: nothing is taken before the leader's snapshot. */
  #behind = false;
  #heardAt = 0;
  #askedAt;
  constructor(options, tab) {
    this.#options = options;
    this.#clock = options.clock;
    this.#tab = tab;
    this.#timers = new Timers(options.clock);
    this.#id = options.clock.random().toString(36).slice(2) + options.clock.now().toString(36);
    this.#wanted = new Set(options.topics);
    const gate = (claims) => this.#gate(claims);
    this.#connection = new Connection({ ...options, gate }, this.#upstream());
  }
  // Feed
  start() {
    this.#connection.start();
  }
  subscribe(topic, position) {
    this.#wanted.add(topic);
    this.#left.delete(topic);
    const channel = channelOf(topic);
    if (this.#role === "following") {
      this.#behind ||= position !== void 0;
      this.#sayHere(this.#behind);
      return;
    }
    const at = this.#connection.positions.get(channel);
    const isNeeded = position && (!at || isBehind(position, at));
    this.#connection.subscribe(topic, isNeeded ? position : void 0);
    if (at) this.#tab.begin([[channel, at]]);
  }
  unsubscribe(topic) {
    this.#wanted.delete(topic);
    this.#left.add(topic);
    if (this.#role === "following") this.#sayHere();
    else if (this.#role === "leading") this.#dropUnwanted([topic]);
    else this.#connection.unsubscribe(topic);
  }
  wake(why) {
    if (this.#role === "following") {
      this.#say({ kind: "wake", why });
      this.#look();
    } else {
      this.#wakeConnection(why);
    }
  }
  suspend() {
    this.#leave();
    this.#connection.suspend();
  }
  resume() {
    this.#connection.resume();
  }
  close() {
    this.#leave();
    this.#connection.close();
  }
  // Among the tabs
  /** The connection's attempts wait here until this tab leads. */
  async #gate(claims) {
    const user = claims.user ?? this.#options.user;
    if (user !== this.#user) this.#leave();
    if (this.#role === "outside") {
      this.#user = user;
      this.#granted = claims.user === void 0 ? void 0 : new Set(claims.topics);
      if (user === void 0) this.#goAlone();
      else this.#tryJoin(user);
    }
    await this.#elected;
  }
  #tryJoin(user) {
    try {
      this.#join(user);
    } catch {
      this.#goAlone();
    }
  }
  #goAlone() {
    this.#leave();
    this.#role = "alone";
    this.#elected = Promise.resolve();
    this.#takeOver();
  }
  #join(user) {
    const { locks, BroadcastChannel, name } = this.#options;
    this.#lock = `herald:${VERSION}:${name}:${user}`;
    this.#role = "following";
    this.#behind = true;
    this.#heardAt = this.#clock.elapsed();
    this.#broadcast = new BroadcastChannel(this.#lock);
    this.#broadcast.onmessage = ({ data }) => this.#hear(data);
    const { signal } = this.#membership = new AbortController();
    const alive = () => {
      this.#sayHere(true);
      return new Promise((leave) => signal.addEventListener("abort", () => leave()));
    };
    locks.request(this.#lockOf(this.#id), { signal }, alive).catch(() => {
    });
    this.#stand();
    this.#watchLeader();
  }
  #lockOf(tab) {
    return `${this.#lock}:${tab}`;
  }
  /** Wait for the lock, or take it. */
  #stand(steal = false) {
    const waiting = new AbortController();
    let current = true;
    let release = () => {
    };
    this.#resign();
    this.#resign = () => {
      current = false;
      waiting.abort();
      release();
    };
    this.#elected = new Promise((elected) => {
      const held = () => {
        if (!current) return void 0;
        this.#lead();
        elected();
        return new Promise((resolve) => release = resolve);
      };
      const how = steal ? { steal } : { signal: waiting.signal };
      this.#options.locks.request(this.#lock, how, held).catch((error) => {
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
  #lead() {
    this.#role = "leading";
    this.#timers.stopAll();
    this.#takeOver();
    this.#sayLeading();
    this.#tell(this.#connection.state);
  }
  /** This tab's connection is to be opened, for what this tab wants. */
  #takeOver() {
    this.#tab.leads(this.#user);
    for (const topic of this.#connection.topics) {
      if (!this.#wanted.has(topic)) this.#connection.unsubscribe(topic);
    }
    for (const topic of this.#wanted) this.#connection.subscribe(topic);
    this.#connection.adopt(this.#tab.positions());
  }
  /** The tab that wakes may have been frozen, and have missed what others said. */
  #wakeConnection(why) {
    if (this.#role === "leading") this.#sayLeading();
    this.#connection.wake(why);
  }
  #sayLeading() {
    this.#say({ kind: "leading", positions: toRecord(this.#connection.positions) });
  }
  /** Another tab took the lock: this one was frozen. */
  #deposed() {
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
  #standAside() {
    this.#connection.suspend();
    this.#connection.resume();
  }
  #leave() {
    if (this.#role !== "leading" && this.#role !== "following") return;
    this.#say({ kind: "bye" });
    if (this.#role === "leading") this.#tab.follows();
    this.#role = "outside";
    this.#timers.stopAll();
    this.#forgetOthers();
    this.#broadcast?.close();
    this.#broadcast = void 0;
    this.#resign();
    this.#membership.abort();
  }
  #say(what) {
    this.#broadcast?.postMessage({ from: this.#id, ...what });
  }
  #hear(said) {
    if (this.#role === "leading") {
      if (said.kind === "here") this.#answer(said);
      if (said.kind === "wake") this.#wakeConnection(said.why);
      if (said.kind === "bye") this.#gone(said.from);
    } else if (this.#role === "following") {
      this.#follow(said);
    }
  }
  // Following
  #follow(said) {
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
        return;
    }
    this.#heardAt = this.#clock.elapsed();
    this.#askedAt = void 0;
  }
  /** Say what this tab wants and where it is; `behind`: it needs what follows that. */
  #sayHere(behind = false) {
    const positions = toRecord(this.#tab.positions());
    this.#say({ kind: "here", topics: [...this.#wanted], positions, behind });
  }
  /** Show the leader's state; its timers may run late where its tab is not seen. */
  #show(state) {
    this.#tab.state(state);
    this.#timers.stop("nudge");
    if (state.name !== "waiting") return;
    this.#timers.start("nudge", state.until - this.#clock.now() + LATE, () => {
      if (this.#tab.visible()) this.#say({ kind: "wake", why: "visible" });
    });
  }
  #watchLeader() {
    this.#timers.start("look", LOOK, () => {
      this.#look();
      if (this.#role === "following") this.#watchLeader();
    });
  }
  #look() {
    const now = this.#clock.elapsed();
    if (this.#behind) this.#sayHere(true);
    if (!this.#tab.visible() || now - this.#heardAt < SILENCE) {
      this.#askedAt = void 0;
    } else if (this.#askedAt === void 0) {
      this.#askedAt = now;
      this.#sayHere();
    } else if (now - this.#askedAt >= ANSWER) {
      this.#askedAt = void 0;
      this.#heardAt = now;
      this.#stand(true);
      this.#standAside();
    }
  }
  // Leading
  /** What the connection tells, for all tabs. */
  #upstream() {
    return {
      deliver: (message, after) => {
        if (this.#role === "leading") this.#say({ kind: "deliver", message, after: after?.text });
        this.#take(message, this.#role === "leading" ? after : void 0);
      },
      state: (state) => {
        if (state.name === "closed") this.#leave();
        if (this.#role !== "following") this.#tell(state);
      },
      failed: (error) => this.#tab.failed(error)
    };
  }
  #tell(state) {
    this.#say({ kind: "state", state });
    this.#tab.state(state);
  }
  #answer({ from, topics, positions, behind }) {
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
      this.#connection.subscribe(topic, held.has(channel) ? void 0 : places.get(channel));
    }
    this.#dropUnwanted(before);
    this.#say({
      kind: "snapshot",
      to: from,
      state: this.#connection.state,
      positions: toRecord(this.#connection.positions)
    });
  }
  /** A tab wants these topics; gives back those that it wanted before. */
  #want(tab, topics) {
    const known = this.#others.get(tab);
    const gone = known?.gone ?? new AbortController();
    this.#others.set(tab, { topics: new Set(topics), gone });
    if (!known) {
      const { locks } = this.#options;
      const options = { signal: gone.signal };
      locks.request(this.#lockOf(tab), options, () => this.#gone(tab)).catch(() => {
      });
    }
    return known?.topics ?? [];
  }
  #gone(tab) {
    const entry = this.#others.get(tab);
    if (!entry) return;
    this.#others.delete(tab);
    entry.gone.abort();
    this.#dropUnwanted(entry.topics);
  }
  #forgetOthers() {
    for (const { gone } of this.#others.values()) gone.abort();
    this.#others.clear();
  }
  /** Leave those of the topics that no tab wants. */
  #dropUnwanted(topics) {
    for (const topic of topics) {
      const wanted = this.#wanted.has(topic) || this.#granted?.has(topic) && this.#others.size || [...this.#others.values()].some((other) => other.topics.has(topic));
      if (!wanted) this.#connection.unsubscribe(topic);
    }
  }
  // For this tab
  /** Whether this tab is to hear a channel: the connection may have more for others. */
  #hears(channel) {
    const topic = topicOf(channel);
    if (topic === void 0 || this.#wanted.has(topic)) return true;
    return !this.#left.has(topic) && (this.#granted?.has(topic) ?? true);
  }
  #take(message, after) {
    if (message.type === "welcome") {
      const heard = Object.entries(message.channels ?? {}).filter(([channel]) => this.#hears(channel));
      message = { ...message, channels: Object.fromEntries(heard) };
    } else if ("channel" in message && message.channel !== void 0) {
      const isHeard = this.#hears(message.channel);
      const isOver = message.type === "unsubscribed" || message.type === "error" && isFinal(message.code);
      if (isOver) this.#giveUp(topicOf(message.channel) ?? "");
      if (!isHeard) return;
    }
    if (!this.#tab.deliver(message, after)) this.#missed();
  }
  /** A topic is not to be had: nobody wants it any more. */
  #giveUp(topic) {
    this.#wanted.delete(topic);
    for (const { topics } of this.#others.values()) topics.delete(topic);
  }
  #missed() {
    if (this.#role === "following") {
      this.#behind = true;
      this.#sayHere(true);
    } else {
      this.#connection.adopt(this.#tab.positions());
    }
  }
};
function isBehind(position, at) {
  return position.epoch !== at.epoch || isLater(at, position);
}

// src/websocket.ts
var SUBPROTOCOL = "herald.v1";
var NORMAL = 1e3;
function openWebSocket(WebSocket, url, parse, listener) {
  const socket = new WebSocket(url, [SUBPROTOCOL]);
  const send = (message) => socket.send(JSON.stringify(message));
  socket.onopen = () => listener.opened();
  socket.onmessage = ({ data }) => {
    listener.heard();
    const message = readMessage(data, parse);
    if (message) listener.said(message);
    else listener.babbled(String(data));
  };
  let error = "";
  socket.onclose = ({ code, reason }) => listener.closed(code ?? LOST, String(reason || error));
  socket.onerror = (event) => void (error = String(event?.message ?? ""));
  return {
    send,
    close(dead) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      if (dead && socket.terminate) socket.terminate();
      else socket.close(NORMAL);
    },
    probe() {
      send({ type: "ping" });
      return true;
    }
  };
}

// src/herald.ts
var ANY = "*";
var NOT_SUBSCRIBED = "not_subscribed";
var NO_MATTER = [NOT_SUBSCRIBED, "already_subscribed"];
var Herald = class {
  #settings;
  #environment;
  #endpoints;
  #feed;
  #inbox;
  #byType = /* @__PURE__ */ new Map();
  #gaps = new Handlers();
  #states = new Handlers();
  #errors = new Handlers();
  #readers = /* @__PURE__ */ new Set();
  #state = { name: "connecting" };
  /** States that handlers are to be told, in order: one may bring about the next. */
  #untold = [];
  /** Where this tab is the one that stores positions. */
  #store;
  /** Until there is a place to go on from, but for what the application said. */
  #isNew = true;
  #unwatch = () => {
  };
  /** Use `connect`. */
  constructor(url, options, environment) {
    const { WebSocket = environment.WebSocket, fetch = environment.fetch } = options;
    this.#environment = { ...environment, WebSocket, fetch };
    this.#settings = complete(options, { websocket: !!WebSocket, sse: !!fetch });
    this.#endpoints = endpointsOf(url, environment.base);
    const application = {
      event: (message) => this.#event(message),
      gap: (message) => this.#gap(message),
      error: (message) => this.#refused(message)
    };
    this.#inbox = new Inbox(application, () => this.#store?.changed());
    this.#inbox.begin(this.#settings.positions);
    this.#feed = this.#makeFeed();
    this.#watch();
    queueMicrotask(() => this.#feed.start());
  }
  // What an application calls
  /** A new object after each change. */
  get state() {
    return this.#state;
  }
  /** By channel, the last position that was dealt with: all its handlers have returned. */
  get positions() {
    return toRecord(this.#inbox.settled);
  }
  /**
   * Calls `handler` for each event of this type, `"*"`: of any, in order; gives back what ends that.
   * A handler may give a promise: the next event does not wait for it, the stored position does.
   */
  on(type, handler) {
    let handlers = this.#byType.get(type);
    if (!handlers) this.#byType.set(type, handlers = new Handlers());
    return handlers.add(handler);
  }
  /** Calls `handler` where events may be missing, before any later one. */
  onGap(handler) {
    return this.#gaps.add(handler);
  }
  /** Calls `handler` after each change of `state`. */
  onState(handler) {
    return this.#states.add(handler);
  }
  /** Calls `handler` for what goes wrong; see `HeraldError`. With none, the console shows it. */
  onError(handler) {
    return this.#errors.add(handler);
  }
  /**
   * Joins a topic; with a position, resumes it from there.
   *
   * @throws {TypeError} where that is no topic's name, or no position.
   */
  subscribe(topic, position) {
    checkTopic(topic);
    const from = parsePosition(position);
    if (position !== void 0 && !from) throw new TypeError(`Not a position: ${position}`);
    if (from) this.#inbox.set(channelOf(topic), from);
    this.#feed.subscribe(topic, from);
  }
  /** Leaves a topic. One that the token names is joined again at the next connect. */
  unsubscribe(topic) {
    checkTopic(topic);
    this.#inbox.forget(channelOf(topic));
    this.#feed.unsubscribe(topic);
  }
  /** Ends it for good; loops over it end, a second call does nothing. */
  close() {
    this.#feed.close();
  }
  /**
   * Events from now on, for one loop. Where more than `buffer` events wait for it, it is given those
   * and throws `HeraldError` `overflow`. It ends when the connection is closed; where you close it, at
   * once: what it was not given counts as not dealt with.
   */
  [Symbol.asyncIterator]() {
    const reader = new Reader(this.#settings.buffer, () => this.#readers.delete(reader));
    this.#readers.add(reader);
    if (this.#state.name === "closed") reader.end();
    return reader;
  }
  // What the feed tells
  #event({ event: type, data, channel, id, time }) {
    const event = { type, data, channel, id, time };
    const readers = [...this.#readers];
    const pending = [];
    pending.push(this.#byType.get(type)?.call(event, this.#blame));
    if (type !== ANY) pending.push(this.#byType.get(ANY)?.call(event, this.#blame));
    for (const reader of readers) pending.push(reader.push(event));
    const waits = pending.filter((each) => each !== void 0);
    return waits.length ? Promise.all(waits) : void 0;
  }
  #gap({ channel, from, to }) {
    if (this.#gaps.empty) {
      const message = `Events of ${channel} may be missing, and there is no onGap handler to load afresh`;
      this.#failed(new HeraldError("gap", message, { channel }));
    }
    return this.#gaps.call({ channel, from, to }, this.#blame);
  }
  #refused({ code, message, channel }) {
    const isOver = isFinal(code) || code === NOT_SUBSCRIBED;
    if (isOver && channel !== void 0) this.#inbox.forget(channel);
    if (!NO_MATTER.includes(code)) this.#failed(new HeraldError(code, message, { channel }));
  }
  #show(state) {
    if (this.#state.name === "closed" || isSame(state, this.#state)) return;
    this.#state = state;
    if (state.name === "closed") this.#end(state.why === "done");
    if (this.#untold.push(state) > 1) return;
    for (; this.#untold[0]; this.#untold.shift()) this.#states.call(this.#untold[0], this.#blame);
  }
  #end(now) {
    this.#unwatch();
    this.#store?.flush();
    for (const reader of this.#readers) reader.end(now);
  }
  #blame = (cause) => {
    const said = cause instanceof Error ? cause.message : String(cause);
    this.#failed(new HeraldError("handler", `A handler failed: ${said}`, { cause }));
  };
  #failed(error) {
    if (this.#errors.empty) report(error);
    else void this.#errors.call(error, report);
  }
  // What it is made of
  #makeFeed() {
    const { topics, token, timeout, transports, shared, user } = this.#settings;
    const { clock, locks, BroadcastChannel, page } = this.#environment;
    const options = {
      name: this.#endpoints.websocket,
      clock,
      topics,
      token,
      timeout,
      ladder: new Ladder(transports),
      open: (...how) => this.#open(...how)
    };
    const shown = {
      state: (state) => this.#show(state),
      failed: (error) => this.#failed(error)
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
        visible: () => page?.document.visibilityState !== "hidden"
      });
    }
    let known = false;
    const gate = async (claims) => {
      if (known) return;
      known = true;
      this.#keepPositions(claims.user ?? user);
      connection.adopt(this.#inbox.held);
    };
    const deliver = (message) => void this.#inbox.take(message, void 0);
    const connection = new Connection({ ...options, gate }, { ...shown, deliver });
    return connection;
  }
  #open(...[transport, listener, wanted]) {
    const { WebSocket, fetch, clock } = this.#environment;
    const { parse } = this.#settings;
    return transport === "websocket" ? openWebSocket(WebSocket, this.#endpoints.websocket, parse, listener) : openStream({ fetch, url: this.#endpoints.sse, parse, clock, wanted }, listener);
  }
  #watch() {
    const { page } = this.#environment;
    if (!page) return;
    this.#unwatch = watchPage(page, {
      wake: (why) => this.#feed.wake(why),
      hidden: () => this.#store?.flush(),
      suspend: () => {
        this.#store?.flush();
        this.#feed.suspend();
      },
      resume: () => this.#feed.resume()
    });
  }
  // Positions beyond the page
  /** This tab stores the user's positions from now on, and begins where they are. */
  #keepPositions(user) {
    if (this.#settings.storage === void 0) return;
    const failed = (cause) => {
      this.#keepPositionsNoMore();
      this.#failed(new HeraldError("storage", `Positions cannot be stored: ${cause}`, { cause }));
    };
    try {
      if (user === void 0) throw new Error("the token names no user; give the option `user`");
      const key = `herald:${this.#endpoints.websocket}:${user}`;
      const positions = () => this.#inbox.settled;
      this.#store = new PositionStore(this.#storage(), key, this.#environment.clock, positions, failed);
      if (this.#isNew) this.#inbox.begin(this.#store.load());
      this.#isNew = false;
    } catch (cause) {
      failed(cause);
    }
  }
  #keepPositionsNoMore() {
    this.#store?.flush();
    this.#store = void 0;
  }
  /** Throws where there is none: in a sandboxed frame, say, or where cookies are blocked. */
  #storage() {
    const { storage } = this.#settings;
    const found = storage === "local" ? this.#environment.localStorage() : storage;
    if (!found) throw new Error("there is no localStorage");
    return found;
  }
};
function connect(url, options = {}) {
  return new Herald(url, options, thisMachine());
}
function isSame(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}
function report(error) {
  const cause = error instanceof HeraldError && error.code === "handler" ? error.cause : error;
  if (error instanceof HeraldError && error.code !== "handler") console.warn(String(error));
  else if (typeof reportError === "function") reportError(cause);
  else console.error(cause);
}
export {
  HeraldError,
  connect
};
