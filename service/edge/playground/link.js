/** One user's connection as a pane holds it: the client, what a spy saw beside it, and a way to be away. */

import { connect } from "./herald-client.js";
import { ask } from "./dev.js";
import { spyingFetch, spyingWebSocket } from "./spy.js";

/**
 * @typedef {object} Settings
 * @property {string} user
 * @property {string[]} topics  names and patterns, for the token
 * @property {"websocket"|"sse"} transport
 * @property {number} life  seconds that a token lasts
 * @property {boolean} renews  whether a new one is given before the old one expires
 * @property {string} [token]  one that was brought; then none is made
 */

/**
 * @typedef {object} LinkListener
 * @property {(state: any) => void} state  the client's, or `{name: "away"}`
 * @property {(event: any) => void} event
 * @property {(gap: any) => void} gap
 * @property {(error: Error) => void} error
 * @property {(text: string) => void} note  what the server said about the connection
 * @property {() => void} token  there is a new one
 */

export class Link {
  /** The connection's id, while there is one. */
  connection = "";
  /** The last token that was given to the client. */
  token = "";
  /** Events on the wire that the client dropped, because it had had them. */
  duplicates = 0;

  #settings;
  #listener;
  #herald;
  #leaving = false;
  #wasLive = false;
  /** Where the last client left off. */
  #positions = {};

  /**
   * @param {Settings} settings
   * @param {LinkListener} listener
   */
  constructor(settings, listener) {
    this.#settings = settings;
    this.#listener = listener;
    this.#open();
  }

  get isLive() {
    return this.#herald?.state.name === "live";
  }

  /** The line is cut at the server, without a word; the client finds out, and comes back. */
  async cut() {
    await ask("cut", { connection: this.connection });
  }

  /** Cut it and stay away, as a page whose network is gone. */
  async leave() {
    this.#leaving = true;
    try {
      if (this.isLive) await this.cut();
      else this.#away();
    } catch (error) {
      this.#leaving = false;
      throw error;
    }
  }

  /** Come back after `leave`. */
  resume() {
    this.#leaving = false;
    this.#open();
  }

  close() {
    const herald = this.#herald;
    this.#herald = undefined;
    this.#positions = herald?.positions ?? {};
    herald?.close();
    this.connection = "";
  }

  #open() {
    const { topics, transport } = this.#settings;
    // What an earlier client still hears is not this one's.
    const mine = (then) => (...values) => {
      if (this.#herald === herald) then(...values);
    };
    const spy = {
      said: mine((message) => this.#overheard(message)),
      ended: mine((code, reason) => this.#ended(code, reason)),
    };
    const herald = connect(location.origin, {
      token: () => this.#giveToken(),
      topics: topics.filter((topic) => !topic.endsWith("*")),
      transports: [transport],
      positions: this.#positions,
      WebSocket: spyingWebSocket(spy),
      fetch: spyingFetch(spy),
    });
    this.#herald = herald;
    this.#wasLive = false;
    herald.on("*", mine((event) => {
      this.duplicates--;
      this.#listener.event(event);
    }));
    herald.onGap(mine((gap) => this.#listener.gap(gap)));
    herald.onError(mine((error) => this.#listener.error(error)));
    herald.onState(mine((state) => this.#changed(state)));
  }

  async #giveToken() {
    const { user, topics, life, renews, token } = this.#settings;
    if (!token && !renews && this.isLive) throw new Error("it is to expire, as this pane was told");
    this.token = token || (await ask("token", { user, topics, ttl: life })).token;
    this.#listener.token();
    return this.token;
  }

  #overheard(message) {
    if (message.type === "welcome") {
      this.connection = message.connection;
    } else if (message.type === "event") {
      // Taken back when the client passes it on.
      this.duplicates++;
    } else if (message.type === "reconnect") {
      this.#listener.note(`told to come back ${message.after_ms} ms after the close`);
    } else if (message.type === "authenticated") {
      this.#listener.note("showed a new token");
    } else if (message.type === "close") {
      this.#ended(message.code, message.reason);
    }
  }

  #ended(code, reason) {
    this.connection = "";
    const cut = code === 1006 ? "cut off, without a close" : `closed with ${code}`;
    this.#listener.note(reason ? `${cut}: ${reason}` : cut);
  }

  #changed(state) {
    if (state.name === "live") this.#wasLive = true;
    // A stream that is cut off has no close; `connection` is forgotten where one was seen.
    else if (this.#wasLive && this.connection && state.name === "waiting") this.#ended(1006, "");
    if (this.#leaving && state.name !== "live" && this.#wasLive) this.#away();
    else this.#listener.state(state);
  }

  #away() {
    this.close();
    this.#listener.state({ name: "away" });
  }
}
