// Server-sent events through `fetch`, and when they are fallen back to.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FakeServer } from "../support/fake-server.js";
import { FakeBrowser, settle, token } from "../support/machine.js";

const welcome = (channels = {}) => ({
  type: "welcome",
  connection: "c",
  user: "alice",
  heartbeat: 25,
  expires: 2_000_000_000,
  channels: { "user:alice": { position: "100-0", recovered: false }, ...channels },
});
const event = (seq, data, channel = "user:alice") => ({ type: "event", channel, id: `100-${seq}`, event: "test", data, time: "t" });

/** A `fetch` that hands out streams, and keeps the requests. */
function fakeFetch(answers = []) {
  const requests = [];
  const encoder = new TextEncoder();
  async function fetch(url, options) {
    const request = { url: new URL(url), ...options, aborted: false };
    options.signal.addEventListener("abort", () => (request.aborted = true));
    requests.push(request);
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    if (answer) return answer;
    const body = new ReadableStream({
      start(controller) {
        request.say = (message) => request.write(`data: ${JSON.stringify(message)}\n\n`);
        request.write = (text) => request.aborted || controller.enqueue(encoder.encode(text));
        request.end = () => controller.close();
        request.fail = () => controller.error(new TypeError("network"));
        options.signal.addEventListener("abort", () => controller.error(options.signal.reason));
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8" } });
  }
  return { fetch, requests };
}

async function start({ answers, ...options } = {}) {
  const browser = new FakeBrowser(new FakeServer());
  const { fetch, requests } = fakeFetch(answers);
  const tab = browser.open({ transports: ["sse"], fetch, ...options });
  await browser.time.run(0);
  return { browser, tab, herald: tab.herald, time: browser.time, requests };
}

const asked = ({ url }) => [url.searchParams.get("topics"), url.searchParams.getAll("since")];

describe("a stream", () => {
  test("asks for what is wanted, and tells what comes", async () => {
    const { tab, requests, time } = await start({ topics: ["a", "b"], positions: { "user:älice": "1-2", all: "3-4" } });
    assert.equal(requests[0].url.pathname, "/v1/stream");
    assert.equal(requests[0].url.protocol, "https:");
    assert.deepEqual(asked(requests[0]), ["a,b", ["user:älice@1-2", "all@3-4"]]);
    assert.equal(requests[0].headers.authorization, `Bearer ${token("alice")}`);
    assert.equal(requests[0].credentials, "omit");
    requests[0].write(": hello\n\n");
    requests[0].say(welcome());
    requests[0].say(event(1, "ä🎉"));
    requests[0].write("data: nonsense\n\n");
    await time.run(1);
    assert.deepEqual(tab.herald.state, { name: "live", user: "alice", transport: "sse" });
    assert.deepEqual(tab.data(), ["ä🎉"]);
    assert.deepEqual(tab.told.errors.map(({ code }) => code), ["message"]);
  });

  test("that a cookie speaks for has no token", async () => {
    const { requests } = await start({ token: undefined });
    assert.equal(requests[0].headers.authorization, undefined);
    assert.equal(requests[0].credentials, "include");
  });

  test("another one is opened for other topics, from where it is", async () => {
    const { tab, herald, requests, time } = await start();
    requests[0].say(welcome());
    requests[0].say(event(1, 1));
    await time.run(1);
    herald.subscribe("a");
    herald.subscribe("b", "7-1");
    await time.run(1);
    assert.equal(requests.length, 2);
    assert.ok(requests[0].aborted);
    assert.deepEqual(asked(requests[1]), ["a,b", ["user:alice@100-1", "topic:b@7-1"]]);
    requests[1].say(welcome({ "topic:a": { position: "100-5", recovered: false }, "topic:b": { position: "7-1", recovered: true } }));
    requests[1].say(event(2, 2));
    await time.run(1);
    assert.deepEqual(tab.names, ["live"]);
    assert.deepEqual({ ...herald.positions }, { "user:alice": "100-2", "topic:a": "100-5", "topic:b": "7-1" });
    herald.unsubscribe("a");
    await time.run(1);
    assert.deepEqual(asked(requests[2]), ["b", ["user:alice@100-2", "topic:b@7-1"]]);
    assert.deepEqual(tab.data(), [1, 2]);
  });

  test("another one is opened for a position that is given for a topic that was just left", async () => {
    const { herald, requests, time } = await start({ topics: ["a"] });
    requests[0].say(welcome({ "topic:a": { position: "100-5", recovered: false } }));
    await time.run(1);
    herald.unsubscribe("a");
    herald.subscribe("a", "100-2");
    await time.run(1000);
    assert.deepEqual(asked(requests.at(-1)), ["a", ["user:alice@100-0", "topic:a@100-2"]]);
  });

  test("what is not permitted is not asked for again", async () => {
    const { tab, herald, requests, time } = await start({ topics: ["secret"] });
    requests[0].say(welcome());
    requests[0].say({ type: "error", code: "forbidden", message: "No.", channel: "topic:secret" });
    await time.run(1);
    herald.subscribe("a");
    await time.run(1);
    assert.deepEqual(asked(requests[1]), ["a", ["user:alice@100-0"]]);
    assert.equal(tab.told.errors.length, 1);
  });

  test("a newer token opens another one too", async () => {
    let number = 0;
    const browser = new FakeBrowser(new FakeServer());
    const { fetch, requests } = fakeFetch();
    const give = () => token("alice", { number: ++number });
    browser.open({ transports: ["sse"], fetch, token: give });
    await browser.time.run(0);
    const expires = browser.time.time / 1000 + 20;
    requests[0].say({ ...welcome(), expires });
    await browser.time.run(18_500);
    assert.equal(number, 2);
    assert.equal(requests.length, 2);
    assert.equal(requests[1].headers.authorization, `Bearer ${give.last ?? token("alice", { number: 2 })}`);
    requests[1].say({ ...welcome(), expires: expires + 20 });
    await browser.time.run(18_000);
    assert.equal(number, 2);
    await browser.time.run(3_000);
    assert.equal(number, 3);
  });

  for (const end of ["end", "fail"]) {
    test(`that breaks off (${end}) is opened again`, async () => {
      const { herald, requests, time } = await start();
      requests[0].say(welcome());
      requests[0].say(event(1, 1));
      await time.run(1);
      requests[0][end]();
      await settle();
      assert.equal(herald.state.why, "network");
      await time.run(1000);
      assert.deepEqual(asked(requests[1]), [null, ["user:alice@100-1"]]);
    });
  }

  test("is ended by `close`, with a code and its advice", async () => {
    const { herald, requests, time } = await start();
    requests[0].say(welcome());
    requests[0].say({ type: "reconnect", after_ms: 5000 });
    requests[0].say({ type: "close", code: 1012, reason: "restart" });
    await time.run(1);
    assert.equal(herald.state.why, "restart");
    assert.ok(herald.state.until >= time.time + 4990);
    await time.run(6000);
    requests[1].say({ type: "close", code: 4101, reason: "too many" });
    await time.run(1);
    assert.deepEqual(herald.state, { name: "closed", why: "refused", code: 4101, reason: "too many" });
  });

  test("that goes silent is dropped; comments are signs of life", async () => {
    const { herald, requests, time } = await start();
    requests[0].say(welcome());
    for (let times = 0; times < 5; times++) {
      await time.run(40_000);
      requests[0].write(":\n\n");
    }
    await settle();
    assert.equal(herald.state.name, "live");
    await time.run(51_000);
    assert.ok(requests[0].aborted);
    assert.equal(requests.length, 2);
  });

  test("is opened anew when the network is there again", async () => {
    const { tab, requests, time } = await start();
    requests[0].say(welcome());
    await time.run(10);
    tab.fire("visibilitychange");
    await time.run(10);
    assert.equal(requests.length, 1);
    tab.fire("online");
    await time.run(10);
    assert.equal(requests.length, 2);
  });
});

describe("refusals", () => {
  const refusal = (status, headers = {}) =>
    new Response("{}", { status, headers: { "content-type": "application/problem+json", ...headers } });
  const cases = [
    [400, "closed", "refused"],
    [403, "closed", "refused"],
    [429, "closed", "refused"],
    [401, "waiting", "unauthorized"],
    [503, "waiting", "busy"],
    [404, "waiting", "network"],
    [500, "waiting", "network"],
    [200, "waiting", "network"], // some network's own page
  ];
  for (const [status, name, why] of cases) {
    test(String(status), async () => {
      const { tab } = await start({ answers: [refusal(status)] });
      assert.equal(tab.told.states[0].name, name);
      assert.equal(tab.told.states[0].why, why);
    });
  }

  for (const status of [400, 403, 429]) {
    test(`${status} of something between is no word of Herald's`, async () => {
      const { tab } = await start({ answers: [new Response("<h1>No</h1>", { status, headers: { "content-type": "text/html" } })] });
      assert.equal(tab.told.states[0].name, "waiting");
      assert.equal(tab.told.states[0].why, "network");
    });
  }

  const told = (body, { status = 403, type = "application/problem+json" } = {}) =>
    new Response(body, { status, headers: { "content-type": type } });
  const detail = "The origin is not allowed.";
  const document = JSON.stringify({ title: "Forbidden", detail });
  async function reasonOf(answer) {
    const { herald, tab } = await start({ answers: [answer] });
    await settle();
    return [herald.state.reason, tab.told.errors.at(-1)?.message];
  }

  test("say in their problem document why, which is passed on", async () => {
    const [reason, message] = await reasonOf(told(document, { type: "application/problem+json; charset=utf-8" }));
    assert.equal(reason, `HTTP 403: ${detail}`);
    assert.equal(message, `The server refuses: 3003 HTTP 403: ${detail}`);
  });

  test("of tokens, too", async () => {
    const { tab, time } = await start({ answers: Array.from({ length: 3 }, () => told(JSON.stringify({ detail: "It has expired." }), { status: 401 })) });
    await time.run(60_000);
    assert.deepEqual(tab.herald.state, { name: "closed", why: "unauthorized", code: 3000, reason: "HTTP 401: It has expired." });
  });

  const silent = { "no JSON": "<h1>", "no object": "null", "no detail": "{}", "no text": '{"detail":{}}', "too long": JSON.stringify({ detail, more: "x".repeat(20_000) }) };
  for (const [name, body] of Object.entries(silent)) {
    test(`that are ${name} are a status only`, async () => assert.equal((await reasonOf(told(body)))[0], "HTTP 403"));
  }

  test("are cut where they are long", async () => {
    assert.equal((await reasonOf(told(JSON.stringify({ detail: "x".repeat(5000) }))))[0].length, "HTTP 403: ".length + 500);
  });

  test("of others are not read, and one that does not end is not waited for", async () => {
    let pulled = 0;
    let cancelled = 0;
    const endless = (type) =>
      told(new ReadableStream({ pull: () => void pulled++, cancel: () => void cancelled++ }, { highWaterMark: 0 }), { status: 401, type });
    const other = await start({ answers: [endless("text/html")] });
    assert.equal(other.tab.told.states[0].why, "unauthorized");
    assert.deepEqual([pulled, cancelled], [0, 1]);
    const { tab, time } = await start({ answers: [endless("application/problem+json")] });
    await time.run(2100);
    assert.equal(tab.told.states[0].why, "unauthorized");
    assert.deepEqual([pulled, cancelled], [1, 2]);
  });

  test("Retry-After is obeyed", async () => {
    const { herald, time, requests } = await start({ answers: [refusal(503, { "retry-after": "7" })] });
    await time.run(6900);
    assert.equal(herald.state.name, "waiting");
    await time.run(500);
    assert.equal(requests.length, 2);
  });

  test("a stream for other topics is not too many: the one before may still count", async () => {
    const answers = [];
    const { tab, herald, requests, time } = await start({ answers });
    requests[0].say(welcome());
    await time.run(1);
    answers.push(refusal(429));
    herald.subscribe("a");
    await time.run(0);
    assert.equal(tab.told.states.at(-1).why, "busy");
    await time.run(1000);
    assert.deepEqual(asked(requests[2]), ["a", ["user:alice@100-0"]]);
  });
});

describe("where WebSockets are blocked", () => {
  async function blocked(options = {}) {
    const server = new FakeServer();
    server.refuses = 1006;
    const browser = new FakeBrowser(server);
    const { fetch, requests } = fakeFetch(options.answers);
    const tab = browser.open({ fetch });
    await browser.time.run(1000);
    return { server, browser, tab, requests, time: browser.time };
  }

  test("the second attempt falls back, and it is kept to", async () => {
    const { tab, requests, time } = await blocked();
    assert.deepEqual(tab.names, ["waiting", "connecting"]);
    requests[0].say(welcome());
    requests[0].say(event(1, 1));
    await time.run(1);
    assert.deepEqual(tab.herald.state, { name: "live", user: "alice", transport: "sse" });
    assert.deepEqual(tab.told.errors, []);
    requests[0].end();
    await time.run(1000);
    assert.equal(requests.length, 2, "no WebSocket was tried before");
    assert.deepEqual(asked(requests[1]), [null, ["user:alice@100-1"]]);
  });

  test("once WebSockets work, they are changed to, and nothing is lost", async () => {
    const { server, tab, requests, time } = await blocked();
    requests[0].say(welcome());
    const beat = async (seconds) => {
      for (let passed = 0; passed < seconds; passed += 20) {
        requests[0].write(":\n\n");
        await time.run(20_000);
      }
    };
    await beat(320);
    assert.equal(tab.herald.state.transport, "sse", "tried, and still blocked");
    server.refuses = 0;
    server.publish("user:alice", 1);
    await beat(300);
    assert.equal(tab.herald.state.transport, "sse", "not tried yet");
    await beat(400);
    assert.equal(tab.herald.state.transport, "websocket");
    assert.deepEqual(tab.data(), [1]);
    assert.ok(requests[0].aborted);
    assert.equal(requests.length, 1);
    assert.equal(server.sockets.size, 1);
  });

  test("a WebSocket that opens and passes nothing on is not changed to", async () => {
    const { server, tab, requests, time } = await blocked();
    requests[0].say(welcome());
    server.refuses = 0;
    server.silent = true;
    for (let passed = 0; passed < 1200; passed += 20) {
      requests[0].write(":\n\n");
      await time.run(20_000);
    }
    assert.deepEqual(tab.names.slice(-1), ["live"]);
    assert.equal(requests.length, 1);
    assert.equal(tab.herald.state.transport, "sse");
  });

  test("streams that are preferred and blocked do not end a WebSocket that works", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const { fetch } = fakeFetch(Array.from({ length: 1000 }, () => new TypeError("network")));
    const tab = browser.open({ fetch, transports: ["sse", "websocket"] });
    await browser.time.run(1000);
    const before = tab.told.states.length;
    assert.equal(tab.herald.state.transport, "websocket");
    for (let passed = 0; passed < 1200; passed += 20) {
      for (const socket of server.sockets.keys()) socket.say({ type: "ping" });
      await browser.time.run(20_000);
    }
    assert.equal(tab.told.states.length, before);
  });

  test("where the server is down, it comes back over WebSockets", async () => {
    const { server, tab, requests, time } = await blocked({ answers: Array.from({ length: 1000 }, () => new TypeError("network")) });
    await time.run(60_000);
    assert.deepEqual(tab.told.errors.map(String), ["HeraldError: Cannot connect to https://herald.test, and goes on trying: TypeError: network"]);
    assert.ok(requests.length > 3);
    server.refuses = 0;
    await time.run(16_000);
    assert.equal(tab.herald.state.transport, "websocket");
  });

  test("a server that refuses is there, and no reason to fall back", async () => {
    const server = new FakeServer();
    server.refuses = 1013;
    const browser = new FakeBrowser(server);
    const { fetch, requests } = fakeFetch();
    browser.open({ fetch });
    await browser.time.run(60_000);
    assert.equal(requests.length, 0);
  });
});
