// The client in a browser of the tests' own: what an application sees, and what the server hears.

import assert from "node:assert/strict";
import { describe, mock, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { Herald } from "../../dist/herald.js";
import { FakeServer } from "../support/fake-server.js";
import { FakeBrowser, settle, token } from "../support/machine.js";

async function start(options = {}, server = new FakeServer()) {
  const browser = new FakeBrowser(server);
  const tab = browser.open(options);
  await browser.time.run(0);
  return { server, browser, tab, herald: tab.herald, time: browser.time };
}
const said = (server, type) => server.said.filter((message) => message.type === type);

describe("events", () => {
  test("go to the handlers of their type, and to those of all", async () => {
    const { server, herald, time } = await start();
    const calls = [];
    herald.on("a", (event) => calls.push(["a", event]));
    const remove = herald.on("__proto__", ({ data }) => calls.push(["p", data]));
    herald.on("*", ({ data }) => calls.push(["*", data]));
    server.publish("all", { x: 1 }, "a");
    server.publish("all", 2, "__proto__");
    server.publish("all", 3, "*");
    await time.run(1);
    const event = { type: "a", data: { x: 1 }, channel: "all", id: "100-1", time: "2026-01-01T00:00:00Z" };
    assert.deepEqual(calls, [["a", event], ["*", { x: 1 }], ["p", 2], ["*", 2], ["*", 3]]);
    remove();
    server.publish("all", 4, "__proto__");
    await time.run(1);
    assert.deepEqual(calls.slice(5), [["*", 4]]);
  });

  test("a handler that throws breaks nothing", async () => {
    const { server, tab, herald, time } = await start();
    const boom = new Error("boom");
    const after = mock.fn();
    herald.on("test", () => {
      throw boom;
    });
    herald.on("test", async () => {
      throw boom;
    });
    herald.on("test", after);
    herald.onGap(() => {
      throw boom;
    });
    herald.onState(() => {
      throw boom;
    });
    server.publish("all", 1);
    server.publish("all", 2);
    await time.run(1);
    server.loseAll();
    server.publish("all", 3);
    await time.run(1);
    assert.equal(after.mock.callCount(), 3);
    assert.deepEqual(tab.data(), [1, 2, 3]);
    const errors = tab.told.errors.filter(({ code, cause }) => code === "handler" && cause === boom);
    assert.equal(errors.length, 3 * 2 + 2);
    assert.deepEqual({ ...herald.positions }, { "user:alice": "101-0", all: "101-1" });
  });

  test("with nobody to tell, errors go to the console", async (t) => {
    const { server, browser, time } = await start();
    const error = t.mock.method(console, "error", () => {});
    const warn = t.mock.method(console, "warn", () => {});
    const lonely = new Herald("wss://herald.test", { token: token("bob") }, browser.open().environment);
    const boom = new Error("boom");
    lonely.on("*", () => {
      throw boom;
    });
    await time.run(1);
    server.publish("user:bob", 1);
    await time.run(1);
    assert.deepEqual(error.mock.calls.map((call) => call.arguments), [[boom]]);
    const [socket] = [...server.sockets.keys()].slice(-1);
    socket.say({ type: "error", code: "forbidden", message: "No.", channel: "topic:x" });
    await time.run(1);
    assert.deepEqual(warn.mock.calls.map((call) => call.arguments), [["HeraldError: No."]]);
  });

  test("a loop has them too, until it is left or the connection is closed", async () => {
    const { server, herald, time } = await start();
    const given = [];
    const loop = (async () => {
      for await (const { data } of herald) given.push(data);
      return "ended";
    })();
    const short = (async () => {
      for await (const { data } of herald) if (data === 2) return data;
    })();
    for (const data of [1, 2, 3]) server.publish("all", data);
    await time.run(1);
    assert.equal(await short, 2);
    herald.close();
    assert.equal(await loop, "ended");
    assert.deepEqual(given, [1, 2, 3]);
    for await (const _ of herald) assert.fail("it is closed");
  });

  test("a loop is given nothing after close, and what it was not given comes again", async () => {
    const { server, browser, herald, time } = await start({ storage: "local" });
    const given = [];
    const loop = (async () => {
      for await (const { data } of herald) {
        given.push(data);
        await settle(); // the others wait by now
        herald.close();
      }
    })();
    for (const data of [1, 2, 3]) server.publish("all", data);
    await time.run(1);
    await loop;
    assert.deepEqual(given, [1]);
    await time.run(1000);
    const again = browser.open({ storage: "local" });
    await time.run(1000);
    assert.deepEqual(again.data(), [2, 3]);
  });

  test("a loop that is begun by an event's handler is given those that follow", async () => {
    const { server, herald, time } = await start();
    const given = [];
    herald.on("first", async () => {
      for await (const { data } of herald) given.push(data);
    });
    server.publish("all", 1, "first");
    server.publish("all", 2);
    await time.run(1);
    assert.deepEqual(given, [2]);
  });

  test("a loop that is too slow fails, and nothing else does", async () => {
    const { server, tab, herald, time } = await start({ buffer: 3 });
    const loop = herald[Symbol.asyncIterator]();
    for (let data = 0; data < 10; data++) server.publish("all", data);
    await time.run(1);
    assert.equal(tab.told.events.length, 10);
    const given = [];
    await assert.rejects(
      async () => {
        for await (const { data } of loop) given.push(data);
      },
      { name: "HeraldError", code: "overflow" },
    );
    assert.deepEqual(given, [0, 1, 2]);
  });

  test("no handler is called after close, also where one closes", async () => {
    const { server, tab, herald, time } = await start();
    herald.on("test", () => herald.close());
    for (const data of [1, 2, 3]) server.publish("all", data);
    await time.run(1);
    assert.deepEqual(tab.data(), [1]);
    assert.deepEqual(herald.state, { name: "closed", why: "done" });
    assert.equal(server.live, 0);
    herald.close();
    herald.subscribe("x");
    herald.unsubscribe("x");
    await time.run(100_000);
    assert.equal(said(server, "connect").length, 1);
  });

  test("what is no message is told, and passed over", async () => {
    const { server, tab, time } = await start();
    const [socket] = server.sockets.keys();
    for (const data of ["{", "5", "null", "[]", "{}", Buffer.from("x")]) tab.later(() => socket.onmessage({ data }));
    for (const type of ["event", "gap", "welcome", "subscribed", "error", "reconnect", "news"]) {
      socket.say({ type });
    }
    socket.say({ type: "event", channel: "all", id: "x", event: "x" });
    socket.say({ type: "gap", channel: "all", from: "x", to: "x" });
    socket.say({ type: "welcome", user: "alice", heartbeat: "x", expires: "x", channels: { all: null, "user:x": {} } });
    server.publish("all", 1);
    await time.run(1);
    assert.deepEqual(tab.data(), [1]);
    assert.ok(tab.told.errors.length >= 5);
    assert.equal(tab.herald.state.name, "live");
  });
});

describe("states", () => {
  test("are what a page shows", async () => {
    const { server, tab, herald, time } = await start();
    const live = { name: "live", user: "alice", transport: "websocket" };
    assert.deepEqual(tab.told.states, [live]);
    assert.equal(herald.state, tab.told.states[0], "the same object until it changes");
    server.refuses = 1013;
    server.cut(1012);
    await time.run(0);
    assert.equal(herald.state.name, "waiting");
    assert.equal(herald.state.why, "restart");
    assert.ok(herald.state.until >= time.time && herald.state.until <= time.time + 250);
    await time.run(1000);
    assert.ok(tab.told.states.some(({ why }) => why === "busy"));
    server.refuses = 0;
    await time.run(15_000);
    assert.deepEqual(herald.state, live);
  });

  test("after_ms is waited for", async () => {
    const { server, herald, time } = await start();
    const [socket] = server.sockets.keys();
    socket.say({ type: "reconnect", after_ms: 5000 });
    server.cut(1012);
    await time.run(0);
    assert.ok(herald.state.until >= time.time + 5000);
    await time.run(4900);
    assert.equal(herald.state.name, "waiting");
    await time.run(400);
    assert.equal(herald.state.name, "live");
  });

  test("come in order, also where a handler closes", async () => {
    const { server, herald, time } = await start();
    server.cut();
    const seen = [];
    herald.onState(({ name }) => name === "live" && herald.close());
    herald.onState(({ name }) => seen.push(name));
    await time.run(1000);
    assert.deepEqual(seen.slice(-2), ["live", "closed"]);
    assert.equal(herald.state.name, "closed");
  });

  for (const name of ["live", "waiting"]) {
    test(`no timer is left where it is closed by a handler, ${name}`, async () => {
      const server = new FakeServer();
      server.expires = 2_000_000_000;
      if (name === "waiting") server.refuses = 1013;
      const browser = new FakeBrowser(server);
      const { herald } = browser.open();
      herald.onState((state) => state.name === name && herald.close());
      await browser.time.run(0);
      assert.equal(herald.state.name, "closed");
      assert.equal(browser.time.timers, 0);
    });
  }

  test("a connection that is left for another one is no slow reader", async () => {
    const { tab, herald, time } = await start({ topics: ["a"] });
    herald.subscribe("a", "100-0");
    await time.run(1000);
    assert.equal(herald.state.name, "live");
    assert.deepEqual(tab.told.states.map(({ why }) => why).filter(Boolean), ["network"]);
  });

  test("stay away", async () => {
    const { server, tab, herald, time } = await start();
    server.refuses = 4101;
    server.cut(4101);
    await time.run(100_000);
    assert.deepEqual(herald.state, { name: "closed", why: "refused", code: 4101, reason: "" });
    assert.deepEqual(tab.told.errors.map(({ code }) => code), ["refused"]);
  });

  test("backoff grows, and begins anew only after a connection that lasted", async () => {
    const server = new FakeServer();
    const { tab, time } = await start({}, server);
    const waits = () => tab.told.states.filter(({ name }) => name === "waiting").map(({ until }) => until);
    for (let times = 0; times < 12; times++) {
      server.cut();
      await time.run(0);
      const { until } = tab.herald.state;
      await time.run(until - time.time + 1);
      await time.run(1000); // live, but not for long
    }
    await time.run(6000);
    server.cut();
    await time.run(0);
    assert.ok(tab.herald.state.until - time.time <= 250, "it lasted");
    assert.equal(waits().length, 13);
  });
});

describe("tokens", () => {
  test("are refreshed in time, also where the clock is wrong", async () => {
    for (const skew of [0, -7200, 7200]) {
      const server = new FakeServer();
      server.heartbeat = 10_000;
      const browser = new FakeBrowser(server);
      const clock = browser.time;
      let asked = 0;
      const give = () => {
        asked++;
        const now = clock.time / 1000 + skew;
        server.expires = now + 600;
        return token("alice", { iat: now, exp: now + 600, number: asked });
      };
      browser.open({ token: give });
      await clock.run(3_600_000);
      const auths = said(server, "auth").length;
      // A clock that is slow refreshes too late: the server would have closed.
      if (skew <= 0) assert.ok(auths >= 5 && auths <= 70, `${skew}: ${auths}`);
      else assert.ok(auths <= 10, `${skew}: ${auths}`);
      assert.equal(said(server, "connect").length, 1);
    }
  });

  test("one that has expired is not tried again", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    let asked = 0;
    browser.open({ token: () => token("alice", { exp: browser.time.time / 1000 + 60, number: ++asked }) });
    await browser.time.run(0);
    server.refuses = 1013;
    server.cut();
    await browser.time.run(120_000);
    assert.ok(asked > 1);
    server.refuses = 0;
    await browser.time.run(20_000);
    assert.equal(server.live, 1);
    const claims = JSON.parse(Buffer.from(said(server, "connect").at(-1).token.split(".")[1], "base64url"));
    assert.equal(claims.number, asked);
  });

  test("a refresh that fails is tried again, and nobody is told", async () => {
    const server = new FakeServer();
    server.heartbeat = 10_000;
    const browser = new FakeBrowser(server);
    const expires = browser.time.time / 1000 + 1000;
    server.expires = expires;
    let asked = 0;
    const give = () => {
      if (++asked > 1) throw new Error("no network");
      return token("alice", { exp: expires });
    };
    const tab = browser.open({ token: give });
    await browser.time.run(995_000);
    assert.ok(asked > 4);
    assert.deepEqual(tab.told.errors, []);
    assert.deepEqual(tab.names, ["live"]);
  });

  test("token() that never answers is asked again", async () => {
    const give = mock.fn(() => new Promise(() => {}));
    const { tab, time } = await start({ token: give });
    await time.run(100_000);
    assert.ok(give.mock.callCount() >= 3);
    assert.equal(tab.told.errors[0].code, "token");
    assert.equal(tab.told.states[0].why, "token");
  });

  test("one that has expired by a clock that is fast is tried, however long token() takes", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const { time: clock } = browser;
    const give = mock.fn(
      () => new Promise((resolve) => clock.after(1500, () => resolve(token("alice", { exp: clock.time / 1000 - 3600 })))),
    );
    browser.open({ token: give });
    await clock.run(10_000);
    assert.equal(server.live, 1);
    assert.equal(give.mock.callCount(), 1);
  });

  test("where one has expired and token() fails slowly, it is asked again after a wait", async () => {
    const server = new FakeServer();
    server.heartbeat = 10_000;
    const browser = new FakeBrowser(server);
    const { time: clock } = browser;
    let good = true;
    const give = mock.fn(() => {
      if (good) return token("alice", { exp: clock.time / 1000 + 60 });
      return new Promise((_, reject) => clock.after(1100, () => reject(new Error("no network"))));
    });
    const tab = browser.open({ token: give });
    await clock.run(0);
    good = false;
    server.refuses = 1013;
    server.cut();
    await clock.run(600_000);
    assert.ok(give.mock.callCount() < 100, `${give.mock.callCount()} calls`);
    assert.equal(tab.told.states.at(-1).why, "token");
    good = true;
    server.refuses = 0;
    await clock.run(20_000);
    assert.equal(server.live, 1);
  });

  test("what can be no token is not sent: an error's page, say", async () => {
    const given = ["<html>\n<h1>502 Bad Gateway</h1>", "<html>", "a token", token("alice")];
    const { server, tab, time } = await start({ token: () => given.shift() });
    await time.run(60_000);
    assert.equal(server.live, 1);
    assert.deepEqual(tab.told.errors.map(({ code }) => code), ["token", "token", "token"]);
    assert.match(tab.told.errors[0].message, /<html>/);
  });

  test("undefined is a failure of token() and not a cookie: it is asked again, after growing waits", async () => {
    let answer; // `.token` of an error's JSON
    const give = mock.fn(() => answer);
    const { server, tab, herald, time } = await start({ token: give });
    await time.run(60_000);
    assert.equal(said(server, "connect").length, 0);
    assert.deepEqual([...new Set(tab.told.errors.map(({ code }) => code))], ["token"]);
    assert.match(tab.told.errors[0].message, /null where nobody is logged in, not undefined/);
    assert.equal(herald.state.why, "token");
    assert.ok(give.mock.callCount() >= 5 && give.mock.callCount() < 30, `${give.mock.callCount()} calls`);
    answer = token("alice");
    await time.run(16_000);
    assert.equal(herald.state.name, "live");
  });

  test("null is nobody who is logged in", async () => {
    const { server, herald } = await start({ token: () => null });
    assert.deepEqual(herald.state, { name: "closed", why: "logged_out" });
    assert.equal(said(server, "connect").length, 0);
  });

  test("the cookie speaks where the option is left out, and that none counts is told", async () => {
    const server = new FakeServer();
    server.refuses = 3000;
    const { tab, time } = await start({ token: undefined }, server);
    await time.run(60_000);
    assert.equal(tab.told.states.at(-1).why, "unauthorized");
    assert.match(tab.told.errors[0].message, /^There is no option token, and no cookie that counts: 3000/);
  });

  test("token() is not called after close", async () => {
    const browser = new FakeBrowser(new FakeServer());
    const give = mock.fn(() => token("alice"));
    browser.open({ token: give }).herald.close();
    await browser.time.run(1000);
    assert.equal(give.mock.callCount(), 0);
  });

  test("no timer is left where it is closed while token() is awaited", async () => {
    const { herald, time } = await start({ token: () => new Promise(() => {}) });
    herald.close();
    await settle();
    assert.equal(time.timers, 0);
  });

  test("tokens that were asked for before and after the page was away make one connection", async () => {
    const answers = [];
    const { server, tab, time } = await start({ token: () => new Promise((resolve) => answers.push(resolve)) });
    tab.fire("pagehide", { persisted: true });
    tab.fire("pageshow", { persisted: true });
    await time.run(10);
    assert.equal(answers.length, 2);
    for (const answer of answers) answer(token("alice"));
    await time.run(10);
    assert.equal(tab.sockets.size, 1);
    assert.equal(said(server, "connect").length, 1);
  });

  test("a token that comes after close is nothing", async () => {
    let answer;
    const { server, herald, time } = await start({ token: () => new Promise((resolve) => (answer = resolve)) });
    herald.close();
    answer(token("alice"));
    await time.run(1000);
    assert.equal(server.sockets.size, 0);
  });
});

describe("a dead connection", () => {
  test("is noticed by its silence", async () => {
    const { server, herald, time } = await start();
    server.silent = true;
    await time.run(49_000);
    assert.equal(herald.state.name, "live");
    await time.run(1100);
    assert.notEqual(herald.state.name, "live");
    server.silent = false;
    await time.run(30_000);
    assert.equal(herald.state.name, "live");
  });

  test("is not one that is heard", async () => {
    const { server, herald, time } = await start();
    for (let times = 0; times < 10; times++) {
      const [socket] = server.sockets.keys();
      socket.say({ type: "ping" });
      await time.run(40_000);
    }
    assert.equal(said(server, "connect").length, 1);
    assert.equal(said(server, "pong").length, 10);
    assert.equal(herald.state.name, "live");
  });

  test("is found out about when the page is seen again", async () => {
    const { server, tab, herald, time } = await start();
    server.silent = true;
    tab.fire("visibilitychange");
    await time.run(4000);
    assert.equal(herald.state.name, "live");
    await time.run(1000);
    assert.notEqual(herald.state.name, "live");
  });

  test("one that answers stays", async () => {
    const { server, tab, herald, time } = await start();
    for (const what of ["visibilitychange", "online", "offline", "resume"]) tab.fire(what);
    await time.run(10_000);
    assert.equal(herald.state.name, "live");
    assert.equal(said(server, "connect").length, 1);
  });

  test("a welcome that does not come is not waited for for ever", async () => {
    const server = new FakeServer();
    server.silent = true;
    const { herald, tab, time } = await start({ timeout: 3000 }, server);
    await time.run(3100);
    assert.ok(tab.told.states.some(({ name }) => name === "waiting"));
    server.silent = false;
    await time.run(10_000);
    assert.equal(herald.state.name, "live");
  });
});

describe("the page", () => {
  test("online and being seen cut a wait short", async () => {
    for (const what of ["online", "visibilitychange"]) {
      const { server, tab, herald, time } = await start();
      const [socket] = server.sockets.keys();
      socket.say({ type: "reconnect", after_ms: 1_000_000 });
      server.cut();
      await time.run(1000);
      tab.fire("offline");
      await time.run(1000);
      assert.equal(herald.state.name, "waiting");
      tab.fire(what);
      await time.run(0);
      assert.equal(herald.state.name, "live", what);
    }
  });

  test("in the browser's cache it has no connection, and resumes when it comes back", async () => {
    const { server, tab, herald, time } = await start();
    server.publish("all", 1);
    await time.run(1);
    tab.fire("pagehide", { persisted: true });
    assert.equal(server.sockets.size, 0);
    server.publish("all", 2);
    await time.run(100_000);
    assert.equal(server.sockets.size, 0);
    tab.fire("pageshow", { persisted: false });
    await time.run(1000);
    assert.equal(server.sockets.size, 0);
    tab.fire("pageshow", { persisted: true });
    await time.run(1000);
    assert.deepEqual(tab.data(), [1, 2]);
    herald.close();
    tab.fire("pageshow", { persisted: true });
    await time.run(1000);
    assert.equal(server.sockets.size, 0);
  });
});

describe("positions", () => {
  test("outlive the page: of what was dealt with, by address and user", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const finish = [];
    const slow = browser.open({ storage: "local", on: () => new Promise((done) => finish.push(done)) });
    await browser.time.run(1000);
    for (const data of [1, 2, 3]) server.publish("all", data);
    await browser.time.run(1000);
    finish[0]();
    await browser.time.run(1000);
    const key = "herald:wss://herald.test/v1/ws:alice";
    assert.deepEqual([...browser.stored.keys()], [key]);
    assert.equal(JSON.parse(browser.stored.get(key)).all, "100-1");
    assert.equal(slow.herald.positions.all, "100-1");
    slow.shut();
    const again = browser.open({ storage: "local" });
    const other = browser.open({ storage: "local", token: token("bob") });
    await browser.time.run(1000);
    assert.deepEqual(again.data(), [2, 3]);
    assert.deepEqual(other.data(), []);
  });

  test("a reload stores the last ones", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    let tab = browser.open({ storage: "local" });
    await browser.time.run(1000);
    for (let data = 0; data < 5; data++) {
      server.publish("all", data);
      await browser.time.run(1);
      assert.deepEqual(tab.data(), [data]);
      tab.shut();
      tab = browser.open({ storage: "local" });
      await browser.time.run(1);
    }
  });

  test("a storage that fails is told once, and the client goes on", async () => {
    const storage = {
      getItem: () => null,
      setItem() {
        throw new Error("full");
      },
    };
    const { server, tab, time } = await start({ storage });
    for (const data of [1, 2]) {
      server.publish("all", data);
      await time.run(1000);
    }
    assert.deepEqual(tab.told.errors.map(({ code }) => code), ["storage"]);
    assert.deepEqual(tab.data(), [1, 2]);
  });

  test("where they cannot be stored, that is told", async () => {
    const nobody = { storage: "local", token: token(5) };
    const none = { storage: "local" };
    for (const [options, hint] of [[nobody, /the option `user`/], [none, /no localStorage/]]) {
      const browser = new FakeBrowser(new FakeServer());
      if (options === none) browser.stored = undefined;
      const tab = browser.open(options);
      await browser.time.run(1000);
      assert.deepEqual(tab.told.errors.map(({ code }) => code), ["storage"]);
      assert.match(tab.told.errors[0].message, hint);
      assert.equal(tab.herald.state.name, "live");
    }
    const { browser, time } = await start({ storage: "local", token: token(5), user: "alice" });
    await time.run(1000);
    assert.equal(browser.stored.size, 1);
  });

  test("may be given", async () => {
    const server = new FakeServer();
    for (const data of [1, 2, 3]) server.publish("all", data);
    const { tab } = await start({ positions: { all: "100-1", "user:x": "what" } }, server);
    assert.deepEqual(tab.data(), [2, 3]);
  });

  test("of a topic may be given, also where it is joined already", async () => {
    const { server, tab, herald, time } = await start();
    for (const data of [1, 2, 3]) server.publish("topic:a", data);
    herald.subscribe("a", "100-2");
    await time.run(1000);
    assert.deepEqual(tab.data(), [3]);
    herald.subscribe("a", "100-1");
    await time.run(1000);
    assert.deepEqual(tab.data(), [3, 2, 3]);
    assert.throws(() => herald.subscribe("a", "x"), TypeError);
    assert.throws(() => herald.subscribe("a b"), TypeError);
  });

  test("that are given for one channel leave the stored ones of others", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const first = browser.open({ storage: "local" });
    await browser.time.run(1000);
    first.shut();
    server.publish("user:alice", 1);
    server.publish("topic:a", 2);
    const second = browser.open({ storage: "local" });
    second.herald.subscribe("a", "0-0");
    await browser.time.run(1000);
    assert.deepEqual(second.data().sort(), [1, 2]);
  });

  test("0-0 is answered by a real one, which is stored", async () => {
    const server = new FakeServer({ kept: 2 });
    const browser = new FakeBrowser(server);
    const first = browser.open({ storage: "local", positions: { all: "0-0" } });
    await browser.time.run(1000);
    assert.equal(first.herald.positions.all, "100-0");
    first.shut();
    for (const data of [1, 2, 3]) server.publish("all", data);
    const second = browser.open({ storage: "local" });
    await browser.time.run(1000);
    assert.deepEqual(second.data(), [2, 3]);
    assert.equal(second.told.gaps.length, 1, "what was lost since is told");
  });

  // The server's answers may be on their way, and the connection may be lost before any of them.
  const doings = {
    subscribe: (herald) => herald.subscribe("a"),
    "subscribe, unsubscribe": (herald) => {
      herald.subscribe("a");
      herald.unsubscribe("a");
    },
    unsubscribe: (herald) => herald.unsubscribe("a"),
  };
  for (const [name, does] of Object.entries(doings)) {
    for (const moment of ["connecting", "live", "granted"]) {
      for (let heard = 0; heard < 6; heard++) {
        test(`of a topic may be given after ${name}, ${moment}, and a loss after ${heard} messages`, async () => {
          const server = new FakeServer();
          if (moment === "granted") server.topics = ["a"];
          for (const data of [1, 2, 3, 4]) server.publish("topic:a", data);
          const browser = new FakeBrowser(server);
          const tab = browser.open({ topics: name === "unsubscribe" ? ["a"] : [] });
          if (moment !== "connecting") await browser.time.run(0);
          else while (said(server, "connect").length === 0) await turn();
          server.publish("topic:a", 5);
          tab.told.events.length = 0;
          server.passes = heard;
          does(tab.herald);
          tab.herald.subscribe("a", "100-2");
          await browser.time.run(100);
          server.passes = Infinity;
          server.cut();
          await browser.time.run(1000);
          server.publish("topic:a", 6);
          await browser.time.run(1000);
          assert.deepEqual(tab.data(), [3, 4, 5, 6]);
          assert.deepEqual(tab.told.errors, []);
        });
      }
    }
  }

  test("of channels that nobody asked for are forgotten without a word", async () => {
    const { server, tab, herald, time } = await start({ positions: { "topic:old": "1-1" } });
    const [socket] = server.sockets.keys();
    socket.say({ type: "error", code: "not_subscribed", message: "No.", channel: "topic:old" });
    await time.run(1);
    assert.deepEqual(tab.told.errors, []);
    assert.equal(herald.positions["topic:old"], undefined);
  });
});

describe("topics", () => {
  test("what is left is not heard any more, what is joined again from now on", async () => {
    const { server, tab, herald, time } = await start({ topics: ["a"] });
    server.publish("topic:a", 1);
    await time.run(1);
    server.publish("topic:a", 2);
    herald.unsubscribe("a"); // while that is on its way
    assert.equal(herald.positions["topic:a"], undefined);
    await time.run(1);
    assert.equal(herald.positions["topic:a"], undefined);
    herald.subscribe("a");
    await time.run(1);
    server.publish("topic:a", 3);
    await time.run(1);
    assert.deepEqual(tab.data(), [1, 3]);
    assert.equal(herald.positions["topic:a"], "100-3");
  });

  test("joined and left again and again, the last word counts", async () => {
    const { server, tab, herald, time } = await start({ topics: ["a"] });
    for (let times = 0; times < 3; times++) {
      herald.unsubscribe("a");
      herald.subscribe("a");
    }
    await time.run(1);
    server.cut();
    await time.run(1000);
    server.publish("topic:a", 1);
    await time.run(1);
    assert.deepEqual(tab.data(), [1]);
  });

  test("left while there is no connection", async () => {
    const { server, herald, time } = await start({ topics: ["a"] });
    server.cut();
    await settle();
    herald.unsubscribe("a");
    assert.equal(herald.positions["topic:a"], undefined);
    await time.run(1000);
    const { topics, positions } = said(server, "connect").at(-1);
    assert.equal(topics, undefined);
    assert.deepEqual(Object.keys(positions), ["user:alice", "all"]);
  });

  test("what is not permitted is told, and not asked for again", async () => {
    const { server, tab, herald, time } = await start({ topics: ["a", "b"] });
    const [socket] = server.sockets.keys();
    socket.say({ type: "error", code: "forbidden", message: "No.", channel: "topic:a" });
    await time.run(1);
    assert.deepEqual(tab.told.errors.map(({ code, channel }) => [code, channel]), [["forbidden", "topic:a"]]);
    server.cut();
    await time.run(1000);
    assert.deepEqual(said(server, "connect").at(-1).topics, ["b"]);
    assert.equal(herald.positions["topic:a"], undefined);
  });

  test("one that the token names may be subscribed to, which changes nothing", async () => {
    const server = new FakeServer();
    server.topics = ["a"];
    const { tab, herald, time } = await start({}, server);
    herald.subscribe("a");
    await time.run(1);
    server.publish("topic:a", 1);
    await time.run(1);
    assert.deepEqual(tab.told.errors, []);
    assert.deepEqual(tab.data(), [1]);
  });

  test("what is left when the connection is made is not joined again", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const { herald, told } = browser.open();
    herald.onState(({ name }) => name === "live" && herald.unsubscribe("a"));
    while (said(server, "connect").length === 0) await turn();
    herald.subscribe("a");
    await browser.time.run(1);
    server.publish("topic:a", 1);
    await browser.time.run(1);
    assert.equal(said(server, "subscribe").length, 1);
    assert.deepEqual(told.events, []);
  });

  test("where the engine is away, it is asked again", async () => {
    const { server, herald, time } = await start();
    herald.subscribe("a");
    const [socket] = server.sockets.keys();
    socket.say({ type: "error", code: "unavailable", message: "Later.", channel: "topic:a" });
    await time.run(1000);
    assert.equal(said(server, "subscribe").length, 2);
  });
});

test("JSON may be read by a parser of one's own", async () => {
  const { server, tab, time } = await start({ parse: (text) => JSON.parse(text, (key, value) => (key === "n" ? BigInt(value) : value)) });
  server.publish("all", { n: "12345678901234567890" });
  await time.run(1);
  assert.deepEqual(tab.data(), [{ n: 12345678901234567890n }]);
});

test("a WebSocket that cannot even be made is a failure like others", async () => {
  class Forbidden {
    constructor() {
      throw new Error("by policy");
    }
  }
  const { tab, time } = await start({ WebSocket: Forbidden });
  await time.run(1000);
  assert.ok(tab.told.errors.every(({ code }) => code === "transport"));
  assert.equal(tab.told.errors[0].code, "transport");
  assert.equal(tab.told.states[0].why, "network");
});

test("nothing is opened after close, also where that is done when a WebSocket cannot be made", async () => {
  class Forbidden {
    constructor() {
      throw new Error("by policy");
    }
  }
  const fetch = mock.fn(() => new Promise(() => {}));
  const browser = new FakeBrowser(new FakeServer());
  const { herald } = browser.open({ WebSocket: Forbidden, fetch });
  let failures = 0;
  herald.onError(() => ++failures === 2 && herald.close());
  await browser.time.run(1000);
  assert.equal(herald.state.name, "closed");
  assert.equal(browser.time.timers, 0);
  assert.equal(fetch.mock.callCount(), 0);
});

describe("what goes wrong without a word otherwise", () => {
  test("an address that cannot be reached is told once, with what the WebSocket says", async () => {
    class Refused {
      constructor() {
        setImmediate(() => {
          this.onerror({ message: "connect ECONNREFUSED 127.0.0.1:1" });
          this.onclose({ code: 1006, reason: "" });
        });
      }
      close() {}
    }
    const { tab, time } = await start({ WebSocket: Refused });
    await time.run(60_000);
    assert.ok(tab.told.states.length > 5);
    assert.deepEqual(tab.told.errors.map(({ code, message }) => [code, message]), [
      ["network", "Cannot connect to https://herald.test, and goes on trying: connect ECONNREFUSED 127.0.0.1:1"],
    ]);
  });

  test("a network that fails later is no error", async () => {
    const { server, tab, time } = await start();
    server.refuses = 1006;
    server.cut();
    await time.run(60_000);
    assert.deepEqual(tab.told.errors, []);
  });

  test("a gap that no handler is told of", async () => {
    const server = new FakeServer();
    const herald = new Herald("wss://herald.test", { token: token("bob") }, new FakeBrowser(server).open().environment);
    const errors = [];
    herald.onError((error) => errors.push(error));
    for (let times = 0; times < 5; times++) await settle();
    server.publish("all", 1);
    server.loseAll();
    await settle();
    assert.deepEqual([...new Set(errors.map(({ code }) => code))], ["gap"]);
    assert.ok(errors.some(({ channel, message }) => channel === "all" && /no onGap handler/.test(message)));
    const before = errors.length;
    herald.onGap(() => {});
    server.publish("all", 2);
    server.loseAll();
    await settle();
    assert.equal(errors.length, before);
  });
});
