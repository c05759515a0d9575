// Against the real service, with faults: no event is lost, none comes twice, all are in order.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { assertExact, closeAll, listen } from "../support/client.js";
import { Proxy } from "../support/proxy.js";
import { Engine, Herald, mint, newName } from "../support/service.js";
import { until } from "../support/waiting.js";

let engine;
let herald;
let proxy;
before(async () => {
  engine = await Engine.start();
  herald = await Herald.start(engine, { HERALD_HEARTBEAT_INTERVAL: "1" });
  proxy = await Proxy.start(herald.port);
});
after(async () => {
  await proxy?.stop();
  await herald?.stop("SIGKILL");
  await engine?.stop();
});
afterEach(() => {
  closeAll();
  proxy.mode = "pass";
});

/** In a stream of events that does not stop: `fault` is done to it some times, events come after. */
async function underFault(user, client, fault, { rounds = 5, half = 20 } = {}) {
  await client.live();
  const channel = `user:${user}`;
  let number = 0;
  for (let round = 0; round < rounds; round++, number += 2 * half) {
    const before = herald.publishAll(channel, number, number + half);
    await client.has(number + half / 2);
    const done = fault();
    const after = before.then(() => herald.publishAll(channel, number + half, number + 2 * half));
    await Promise.all([done, after]);
  }
  await client.has(number);
  assertExact(client, number);
}

for (const transport of ["websocket", "sse"]) {
  describe(transport, () => {
    const transports = [transport];

    test("connections that are cut off", async () => {
      const user = newName();
      const client = listen(proxy.url, user, { transports });
      await underFault(user, client, () => proxy.cut());
      assert.equal(client.herald.state.transport, transport);
      assert.deepEqual(client.errors, []);
    });

    test("connections that go silent, and nobody says so", async () => {
      const user = newName();
      const client = listen(proxy.url, user, { transports });
      await underFault(user, client, () => proxy.silence(), { rounds: 2 });
    });

    test("a network that is away for a while", async () => {
      const user = newName();
      const client = listen(proxy.url, user, { transports });
      const away = async () => {
        proxy.mode = "refused";
        proxy.cut();
        await until(() => client.states.filter(({ name }) => name === "waiting").length >= 3);
        proxy.mode = "pass";
      };
      await underFault(user, client, away, { rounds: 1 });
    });

    test("the server is killed and started again", async () => {
      const user = newName();
      const client = listen(herald.url, user, { transports });
      const kill = async () => {
        await herald.stop("SIGKILL");
        await herald.restart();
      };
      await underFault(user, client, kill, { rounds: 1 });
    });

    test("the server drains and is started again", async () => {
      const user = newName();
      const client = listen(herald.url, user, { transports });
      const drain = async () => {
        await herald.stop("SIGTERM");
        await herald.restart();
      };
      await underFault(user, client, drain, { rounds: 1 });
      assert.ok(client.states.some(({ why }) => why === "restart"), JSON.stringify(client.states));
    });

    test("tokens that last two seconds", async () => {
      const user = newName();
      let asked = 0;
      const token = () => mint(user, { ttl: 2, number: ++asked });
      const client = listen(herald.url, user, { transports, token });
      await client.live();
      let number = 0;
      while (asked < 4) await herald.publishAll(`user:${user}`, number, (number += 10));
      await client.has(number);
      assertExact(client, number);
      assert.deepEqual(client.errors, []);
    });

    test("tokens that are refused", async () => {
      const user = newName();
      const good = [false, true];
      const token = () => (good.shift() ?? true ? mint(user) : mint(user, { secret: "x".repeat(40) }));
      const client = listen(herald.url, user, { transports, token });
      await client.live();
      assert.ok(client.states.some(({ why }) => why === "unauthorized"));

      const other = listen(herald.url, user, { transports, token: mint(user, { secret: "x".repeat(40) }) });
      await until(() => other.herald.state.name === "closed");
      assert.equal(other.herald.state.why, "unauthorized");
      assert.equal(other.herald.state.code, 3000);
      assert.deepEqual(other.errors.map(({ code }) => code), ["unauthorized"]);
    });

    test("a token that has expired while the client was away", async () => {
      const user = newName();
      const client = listen(proxy.url, user, { transports, token: () => mint(user, { ttl: 1 }) });
      await client.live();
      proxy.mode = "refused";
      proxy.cut();
      await herald.publishAll(`user:${user}`, 0, 5);
      await until(() => client.states.filter(({ name }) => name === "waiting").length >= 4);
      proxy.mode = "pass";
      await client.has(5);
      assertExact(client, 5);
    });

    test("no token: nobody is logged in", async () => {
      const client = listen(herald.url, "x", { transports, token: async () => null });
      await until(() => client.herald.state.name === "closed");
      assert.deepEqual(client.herald.state, { name: "closed", why: "logged_out" });
    });

    test("token() fails for a while", async () => {
      const user = newName();
      let failures = 2;
      const token = async () => {
        if (failures-- > 0) throw new Error("no network");
        return mint(user);
      };
      const client = listen(herald.url, user, { transports, token });
      await client.live();
      assert.deepEqual(client.errors.map(({ code }) => code), ["token", "token"]);
      assert.equal(client.states[0].why, "token");
    });

    test("the engine is killed and started again: what may be missing is told", async () => {
      const user = newName();
      const client = listen(herald.url, user, { transports });
      await client.live();
      await herald.publishAll(`user:${user}`, 0, 5);
      await client.has(5);
      await engine.restart();
      await until(() => client.gaps.some(({ channel }) => channel === `user:${user}`), "a gap is told");
      await herald.publishAll(`user:${user}`, 5, 10);
      await client.has(10);
      assert.deepEqual(client.data(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    });

    test("what the log has lost is told as a gap", async () => {
      const user = newName();
      await herald.publishAll(`user:${user}`, 0, 2);
      const client = listen(herald.url, user, { transports, positions: { [`user:${user}`]: "1-1" } });
      await client.has(2);
      assert.deepEqual(client.data(), [0, 1]);
      assert.equal(client.gaps.length, 1);
      assert.equal(client.gaps[0].from, "1-1");
    });
  });
}

test("topics, joined and left while events come", async () => {
  for (const transport of ["websocket", "sse"]) {
    const [user, topic] = [newName(), newName()];
    const token = () => mint(user, { topics: [`${topic}*`] });
    const client = listen(herald.url, user, { transports: [transport], token, topics: [topic] });
    await client.live();
    await herald.publishAll(`topic:${topic}`, 0, 3);
    await client.has(3);
    client.herald.subscribe(`${topic}-2`);
    client.herald.unsubscribe(topic);
    await until(() => `topic:${topic}-2` in client.herald.positions && !(`topic:${topic}` in client.herald.positions));
    await herald.publishAll(`topic:${topic}`, 3, 4);
    await herald.publishAll(`topic:${topic}-2`, 3, 6);
    await client.has(6);
    assertExact(client, 6);
    assert.deepEqual(client.errors, []);
    client.herald.subscribe("not-permitted");
    await until(() => client.errors.some(({ code, channel }) => code === "forbidden" && channel === "topic:not-permitted"));
    assert.equal(client.herald.state.name, "live");
  }
});

test("a position counts for a topic that is joined already, or was just left", async () => {
  for (const transport of ["websocket", "sse"]) {
    const [user, topic] = [newName(), newName()];
    await herald.publishAll(`topic:${topic}`, 0, 3);
    const token = () => mint(user, { topics: [topic] });
    const client = listen(herald.url, user, { transports: [transport], token });
    await client.live();
    client.herald.subscribe(topic);
    client.herald.subscribe(topic, "0-0");
    await client.has(3);
    client.herald.unsubscribe(topic);
    client.herald.subscribe(topic, "0-0");
    await client.has(6);
    await herald.publishAll(`topic:${topic}`, 3, 4);
    await client.has(7);
    assert.deepEqual(client.data(), [0, 1, 2, 0, 1, 2, 3]);
    assert.deepEqual([client.gaps, client.errors], [[], []]);
  }
});

test("Node without a WebSocket uses server-sent events, or says what to do", async (t) => {
  const theirs = globalThis.WebSocket; // from Node 22 on
  globalThis.WebSocket = undefined;
  t.after(() => (globalThis.WebSocket = theirs));
  const user = newName();
  const client = listen(herald.url, user, { WebSocket: undefined });
  await client.live();
  assert.equal(client.herald.state.transport, "sse");
  assert.throws(() => listen(herald.url, user, { WebSocket: undefined, transports: ["websocket"] }), /pass one/);
});

test("a reader that is too slow for the server is cut off and resumes", async () => {
  const small = await Herald.start(engine, { HERALD_SEND_QUEUE_BYTES: "20000" });
  try {
    const user = newName();
    const slow = await Proxy.start(small.port);
    const client = listen(slow.url, user, { transports: ["websocket"] });
    await client.live();
    const text = "x".repeat(30_000);
    slow.hold(true);
    for (let number = 0; number < 300; number++) await small.publish(`user:${user}`, { number, text });
    slow.hold(false);
    await client.has(300);
    assert.deepEqual(client.events.map(({ data }) => data.number), Array.from({ length: 300 }, (_, n) => n));
    assert.deepEqual(client.gaps, []);
    await slow.stop();
  } finally {
    await small.stop("SIGKILL");
  }
});
