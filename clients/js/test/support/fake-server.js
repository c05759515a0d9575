// A Herald of the tests' own: logs and sockets, as docs/protocol.md has them.

export class FakeServer {
  sockets = new Map();
  logs = new Map();
  /** Everything that clients said. */
  said = [];
  /** A close code that new sockets get instead of being opened. */
  refuses = 0;
  /** Answers nothing at all. */
  silent = false;
  /** So many messages reach clients; what follows is lost. */
  passes = Infinity;
  heartbeat = 25;
  expires = undefined;
  topics = [];
  epoch = 100;
  #kept;

  /** `kept`: events of each channel. */
  constructor({ kept = 10_000 } = {}) {
    this.#kept = kept;
  }

  log(channel) {
    const log = this.logs.get(channel) ?? { epoch: this.epoch, seq: 0, events: [] };
    this.logs.set(channel, log);
    return log;
  }

  publish(channel, data, type = "test") {
    const log = this.log(channel);
    const id = `${log.epoch}-${++log.seq}`;
    const event = { type: "event", channel, id, event: type, data, time: "2026-01-01T00:00:00Z" };
    log.events.push({ seq: log.seq, event });
    if (log.events.length > this.#kept) log.events.shift();
    for (const [socket, state] of this.sockets) if (state.joined.has(channel)) this.#say(socket, event);
    return id;
  }

  /** The engine was restarted and has lost everything. */
  loseAll(epoch = this.epoch + 1) {
    this.epoch = epoch;
    for (const [channel, log] of this.logs) {
      const from = `${log.epoch}-${log.seq}`;
      Object.assign(log, { epoch: this.epoch, seq: 0, events: [] });
      for (const [socket, state] of this.sockets) {
        if (state.joined.has(channel)) this.#say(socket, { type: "gap", channel, from, to: `${log.epoch}-0` });
      }
    }
  }

  /** Ends all sockets. */
  cut(code = 1006) {
    for (const socket of [...this.sockets.keys()]) socket.end(code);
  }

  met(socket) {
    this.sockets.set(socket, { joined: new Set(), live: false });
  }

  gone(socket) {
    this.sockets.delete(socket);
  }

  get live() {
    return [...this.sockets.values()].filter(({ live }) => live).length;
  }

  heard(socket, message) {
    this.said.push(message);
    const state = this.sockets.get(socket);
    if (!state || this.silent) return;
    switch (message.type) {
      case "connect":
        return this.#connect(socket, state, message);
      case "auth":
        return this.#say(socket, { type: "authenticated", expires: this.expires });
      case "subscribe": {
        const channel = `topic:${message.topic}`;
        if (state.joined.has(channel)) {
          return this.#say(socket, { type: "error", code: "already_subscribed", message: "It is joined.", channel });
        }
        state.joined.add(channel);
        const [joined, replay] = this.#join(channel, message.position);
        this.#say(socket, { type: "subscribed", channel, ...joined });
        for (const each of replay) this.#say(socket, each);
        return;
      }
      case "unsubscribe":
        state.joined.delete(`topic:${message.topic}`);
        return this.#say(socket, { type: "unsubscribed", channel: `topic:${message.topic}` });
      case "ping":
        return this.#say(socket, { type: "pong" });
    }
  }

  #say(socket, message) {
    if (!this.silent && this.passes-- > 0) socket.say(message);
  }

  #connect(socket, state, { token, positions = {}, topics = [] }) {
    state.live = true;
    const user = String(JSON.parse(Buffer.from(token.split(".")[1], "base64url")).sub);
    const wanted = [`user:${user}`, "all", ...[...this.topics, ...topics].map((name) => `topic:${name}`)];
    const channels = {};
    const replays = [];
    for (const channel of new Set(wanted)) {
      state.joined.add(channel);
      const [joined, replay] = this.#join(channel, positions[channel]);
      channels[channel] = joined;
      replays.push(...replay);
    }
    const { heartbeat, expires } = this;
    this.#say(socket, { type: "welcome", connection: "c", user, heartbeat, expires, channels });
    for (const each of replays) this.#say(socket, each);
  }

  #join(channel, position) {
    const log = this.log(channel);
    if (position === undefined) return [{ position: `${log.epoch}-${log.seq}`, recovered: false }, []];
    const [epoch, seq] = position.split("-").map(Number);
    const first = log.events[0]?.seq ?? log.seq + 1;
    const isKnown = epoch === log.epoch && seq <= log.seq && seq >= first - 1;
    const from = isKnown ? seq : first - 1;
    const events = log.events.filter((each) => each.seq > from).map(({ event }) => event);
    if (position === "0-0") return [{ position: `${log.epoch}-${from}`, recovered: true }, events];
    if (isKnown) return [{ position, recovered: true }, events];
    const to = `${log.epoch}-${from}`;
    return [{ position: to, recovered: false }, [{ type: "gap", channel, from: position, to }, ...events]];
  }
}
