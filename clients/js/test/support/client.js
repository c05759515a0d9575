// A client that keeps what it was told.

import assert from "node:assert/strict";
import WebSocket from "ws";
import { connect } from "../../dist/index.js";
import { mint } from "./service.js";
import { until } from "./waiting.js";

const open = new Set();

/** Connects as a user; `options` are those of `connect`. */
export function listen(url, user, options = {}) {
  const told = { events: [], gaps: [], errors: [], states: [] };
  const herald = connect(url, { WebSocket, token: () => mint(user), timeout: 5000, ...options });
  open.add(herald);
  herald.on("*", (event) => void told.events.push(event));
  herald.onGap((gap) => void told.gaps.push(gap));
  herald.onError((error) => void told.errors.push(error));
  herald.onState((state) => void told.states.push(state));
  return Object.assign(told, {
    herald,
    data: () => told.events.map(({ data }) => data),
    live: () => until(() => herald.state.name === "live", "the client is live"),
    has: (count) => until(() => told.events.length >= count, `${count} events, not ${told.events.length}`),
  });
}

/** Ends all clients of this file. */
export function closeAll() {
  for (const herald of open) herald.close();
  open.clear();
}

/** The numbers from 0 on, each once, in order, and no gap was told. */
export function assertExact(told, count) {
  assert.deepEqual(told.data(), Array.from({ length: count }, (_, number) => number));
  assert.deepEqual(told.gaps, []);
}
