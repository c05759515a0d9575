// A TCP proxy in front of a server, with the faults of networks.

import { once } from "node:events";
import { connect, createServer } from "node:net";

export class Proxy {
  /** What happens to new connections: they `pass`, are `refused`, `silent`, or without `websockets`. */
  mode = "pass";
  #pairs = new Set();

  static async start(port) {
    const proxy = new Proxy();
    proxy.target = port;
    proxy.server = createServer((client) => proxy.#accept(client)).listen(0, "127.0.0.1");
    await once(proxy.server, "listening");
    return proxy;
  }

  get url() {
    return `http://127.0.0.1:${this.server.address().port}`;
  }

  /** How many connections pass through. */
  get open() {
    return this.#pairs.size;
  }

  #accept(client) {
    client.on("error", () => {});
    if (this.mode === "refused") {
      client.resetAndDestroy();
      return;
    }
    const pair = { client, server: undefined, silent: this.mode === "silent" };
    this.#pairs.add(pair);
    client.on("close", () => this.#close(pair));
    client.on("data", (piece) => this.#forward(pair, piece));
  }

  #forward(pair, piece) {
    if (pair.silent) return;
    if (!pair.server) {
      if (this.mode === "websockets-blocked" && /^upgrade: *websocket/im.test(piece.toString("latin1"))) {
        pair.client.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return;
      }
      pair.server = connect(this.target, "127.0.0.1");
      pair.server.on("error", () => {});
      pair.server.on("close", () => this.#close(pair));
      pair.server.on("data", (answer) => pair.silent || pair.client.write(answer));
    }
    pair.server.write(piece);
  }

  #close(pair) {
    this.#pairs.delete(pair);
    pair.client.destroy();
    pair.server?.destroy();
  }

  /** Cuts all connections off. */
  cut() {
    for (const pair of this.#pairs) {
      pair.client.resetAndDestroy();
      this.#close(pair);
    }
  }

  /** Connections stay open, and nothing comes through any more: half-open, as a lost Wi-Fi leaves them. */
  silence() {
    for (const pair of this.#pairs) pair.silent = true;
  }

  /** Reads no more of what the servers send until it is told otherwise. */
  hold(held) {
    for (const { server } of this.#pairs) held ? server?.pause() : server?.resume();
  }

  async stop() {
    this.server.close();
    this.cut();
  }
}
