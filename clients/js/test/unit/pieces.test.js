// The small pieces, each by itself.

import assert from "node:assert/strict";
import { describe, mock, test } from "node:test";
import { draw } from "../../dist/backoff.js";
import { systemClock } from "../../dist/clock.js";
import { endpointsOf } from "../../dist/endpoints.js";
import { HeraldError } from "../../dist/errors.js";
import { EventStreamParser } from "../../dist/event-stream.js";
import { Handlers } from "../../dist/handlers.js";
import { Ladder } from "../../dist/ladder.js";
import { complete } from "../../dist/options.js";
import { fromRecord, isLater, parsePosition, toRecord } from "../../dist/position.js";
import { Progress } from "../../dist/progress.js";
import { Reader } from "../../dist/reader.js";
import { PositionStore } from "../../dist/storage.js";
import { Timers } from "../../dist/timers.js";
import { askToken, readClaims } from "../../dist/token.js";
import { FakeTime, settle, token } from "../support/machine.js";

const at = (text) => parsePosition(text);

describe("positions", () => {
  test("are two numbers up to 2^64 - 1, compared epoch first", () => {
    const order = ["0-0", "0-2", "0-10", "1-1", "9-3", "10-0", "9007199254740993-0", "18446744073709551615-18446744073709551615"];
    for (const [number, text] of order.entries()) {
      for (const [other, later] of order.entries()) assert.equal(isLater(at(later), at(text)), other > number);
    }
  });

  test("what is none is read as none", () => {
    const none = ["", "1", "1-", "-1", "1-2-3", "a-1", "1-0x2", " 1-2", "1-2\n", "18446744073709551616-0", "0-18446744073709551616", "1.5-2", "+1-2", null, 5, {}];
    for (const text of none) assert.equal(parsePosition(text), undefined, String(text));
  });

  test("records may have channels of any name", () => {
    const names = ["user:__proto__", "__proto__", "constructor", "toString", "user:ä 🎉"];
    const record = JSON.parse(`{${names.map((name) => `${JSON.stringify(name)}:"1-2"`)}}`);
    const positions = fromRecord(record);
    assert.deepEqual([...positions.keys()], names);
    assert.equal(JSON.stringify(toRecord(positions)), JSON.stringify(record));
    assert.deepEqual([...fromRecord({ all: "x", "user:a": 5, "user:b": "1-1" }).keys()], ["user:b"]);
    for (const nothing of [null, undefined, 5, "x"]) assert.equal(fromRecord(nothing).size, 0);
  });
});

test("a wait is drawn evenly between its ends", () => {
  assert.equal(draw({ least: 1, most: 3 }, () => 0), 1000);
  assert.equal(draw({ least: 1, most: 3 }, () => 0.5), 2000);
});

describe("addresses", () => {
  const forms = {
    "ws://h:8000": ["ws://h:8000/v1/ws", "http://h:8000/v1/stream"],
    "wss://h/v1/ws": ["wss://h/v1/ws", "https://h/v1/stream"],
    "http://h/": ["ws://h/v1/ws", "http://h/v1/stream"],
    "https://h/push/v1/ws/": ["wss://h/push/v1/ws", "https://h/push/v1/stream"],
    "https://h/push/?a=b#c": ["wss://h/push/v1/ws?a=b", "https://h/push/v1/stream?a=b"],
    "https://h/push/v1/events": ["wss://h/push/v1/ws", "https://h/push/v1/stream"],
    "/a:8000": ["wss://app.test/a:8000/v1/ws", "https://app.test/a:8000/v1/stream"],
    "https://h/v1/stream": ["wss://h/v1/ws", "https://h/v1/stream"],
    "/herald": ["wss://app.test/herald/v1/ws", "https://app.test/herald/v1/stream"],
  };
  for (const [given, [websocket, sse]] of Object.entries(forms)) {
    test(given, () => assert.deepEqual(endpointsOf(given, "https://app.test/a/b"), { websocket, sse }));
  }
  test("what is none", () => {
    const said = (given) => ({ name: "TypeError", message: `Not an address: ${JSON.stringify(given)} (as https://herald.example)` });
    for (const given of ["ftp://h", "mailto:x", "/herald", "", "https://", "herald.example"]) {
      assert.throws(() => endpointsOf(given), said(given));
    }
    // A host with a port would be a path on this page, or a scheme.
    for (const given of ["127.0.0.1:8000", "localhost:8000", "herald.example:443/v1/ws", "[::1]:8000", undefined, null, 5, {}]) {
      for (const base of [undefined, "https://app.test/"]) assert.throws(() => endpointsOf(given, base), said(given));
    }
  });
});

describe("options", () => {
  const both = { websocket: true, sse: true };
  test("what was left out", () => {
    const { topics, buffer, timeout, transports, shared } = complete({}, both);
    assert.deepEqual({ topics, buffer, timeout, transports, shared }, { topics: [], buffer: 1000, timeout: 15000, transports: ["websocket", "sse"], shared: false });
  });
  test("what this machine cannot do is left out", () => {
    assert.deepEqual(complete({}, { websocket: false, sse: true }).transports, ["sse", undefined]);
    assert.deepEqual(complete({ transports: ["sse", "websocket"] }, both).transports, ["sse", "websocket"]);
    assert.throws(() => complete({ transports: ["websocket"] }, { websocket: false, sse: true }), /pass one, as in/);
  });
  test("what cannot be", () => {
    for (const options of [{ transports: [] }, { transports: ["carrier pigeon"] }, { topics: ["a b"] }, { topics: [""] }, { buffer: 0 }, { timeout: "soon" }, { topics: "news" }, { transports: "sse" }, { storage: "session" }, { storage: null }, { token: "" }, { token: 5 }, { token: Promise.resolve("t") }, { token: "a token" }]) {
      assert.throws(() => complete(options, both), (error) => error instanceof TypeError && !/is not a function|undefined/.test(error.message));
    }
  });
});

test("positions are those of channels", () => {
  const both = { websocket: true, sse: true };
  const good = { all: "1-1", "topic:a.b": "1-1", "user:ä 🎉": "1-1" };
  assert.equal(complete({ positions: good }, both).positions.size, 3);
  for (const name of ["news", "", "all ", "user:", "topic:", "topic:a b", "user:a\nb"]) {
    const message = `Not a channel: ${JSON.stringify(name)} (as user:alice, topic:news or all)`;
    assert.throws(() => complete({ positions: { ...good, [name]: "1-1" } }, both), { name: "TypeError", message });
  }
});

describe("an option that there is not", () => {
  const hints = { topic: "topics", tokens: "token", Transports: "transports", websocket: "WebSocket", psoitions: "positions", buffr: "buffer", onGap: "", id: "", __proto: "" };
  for (const [name, near] of Object.entries(hints)) {
    test(`${name} is named${near && `, and ${near}`}`, () => {
      const message = `connect has no option ${name}${near && `: did you mean ${near}?`}`;
      assert.throws(() => complete({ [name]: undefined }, { websocket: true, sse: true }), { name: "TypeError", message });
    });
  }
  test("nor are there options that are none", () => {
    for (const given of ["a token", null]) {
      assert.throws(() => complete(given, { websocket: true, sse: true }), { name: "TypeError", message: /are an object/ });
    }
  });
  test("a promise is no token: a function may give one", () => {
    assert.throws(() => complete({ token: Promise.resolve("t") }, { websocket: true, sse: true }), /not a promise: give the function itself/);
  });
});

describe("event streams", () => {
  const read = (...pieces) => {
    const parser = new EventStreamParser();
    return pieces.flatMap((piece) => parser.push(piece));
  };
  const stream = "\uFEFF: hello\nretry: 5\nid: a\ndata: one\n\ndata:two\r\ndata:  three\r\n\r\nevent: x\rdata\rdata:four\r\r:\n\n\n";
  const messages = ["one", "two\n three", "\nfour"];
  test("at once", () => assert.deepEqual(read(stream), messages));
  test("cut anywhere", () => {
    for (let cut = 0; cut <= stream.length; cut++) {
      assert.deepEqual(read(stream.slice(0, cut), stream.slice(cut)), messages, `at ${cut}`);
    }
    assert.deepEqual(read(...stream), messages);
  });
  test("a message that is not finished is none", () => assert.deepEqual(read("data: one\n"), []));
  test("other fields are passed over", () => assert.deepEqual(read("datax: 1\ndata : 2\n\n"), []));
});

describe("which transport", () => {
  const minutes = (number) => number * 60_000;
  test("two failures in a row, then the second at once, which is kept to", () => {
    const ladder = new Ladder(["websocket", "sse"]);
    assert.equal(ladder.begin(0), "websocket");
    assert.equal(ladder.failed("websocket"), undefined);
    assert.equal(ladder.failed("websocket"), "sse");
    assert.equal(ladder.reached("sse", 0), minutes(5));
    assert.equal(ladder.begin(minutes(4)), "sse");
    assert.equal(ladder.reached("sse", minutes(4)), minutes(1));
    assert.equal(ladder.stillBlocked(minutes(5)), minutes(10));
    assert.equal(ladder.begin(minutes(14)), "sse");
    assert.equal(ladder.begin(minutes(15)), "websocket");
    assert.equal(ladder.failed("websocket"), "sse", "it is known to be blocked");
    assert.equal(ladder.reached("websocket", minutes(15)), undefined);
    assert.equal(ladder.failed("websocket"), undefined, "it is not any more");
  });
  test("a failure between successes does not count", () => {
    const ladder = new Ladder(["websocket", "sse"]);
    ladder.failed("websocket");
    ladder.reached("websocket", 0);
    assert.equal(ladder.failed("websocket"), undefined);
  });
  test("where the server is down both fail, and the first is tried first again", () => {
    const ladder = new Ladder(["websocket", "sse"]);
    ladder.failed("websocket");
    ladder.failed("websocket");
    ladder.reached("sse", 0);
    assert.equal(ladder.failed("sse"), undefined);
    assert.equal(ladder.begin(1), "websocket");
  });
  test("one alone", () => {
    const ladder = new Ladder(["sse", undefined]);
    for (let times = 0; times < 3; times++) {
      assert.equal(ladder.begin(0), "sse");
      assert.equal(ladder.failed("sse"), undefined);
    }
    assert.equal(ladder.reached("sse", 0), undefined);
  });
});

describe("handlers", () => {
  test("are called in order, also where one throws", async () => {
    const handlers = new Handlers();
    const calls = [];
    const blame = mock.fn();
    const boom = new Error("boom");
    handlers.add((value) => calls.push(["a", value]));
    handlers.add(() => {
      throw boom;
    });
    handlers.add(async () => {
      throw boom;
    });
    const remove = handlers.add((value) => calls.push(["b", value]));
    await handlers.call(1, blame);
    assert.deepEqual(calls, [["a", 1], ["b", 1]]);
    assert.deepEqual(blame.mock.calls.map((call) => call.arguments[0]), [boom, boom]);
    remove();
    remove();
    handlers.call(2, blame);
    assert.deepEqual(calls.slice(2), [["a", 2]]);
  });

  test("a function may be added twice, and each may be removed while they are called", () => {
    const handlers = new Handlers();
    const handler = mock.fn(() => remove());
    const remove = handlers.add(handler);
    handlers.add(handler);
    assert.equal(handlers.call(1), undefined, "none gave a promise");
    handlers.call(2);
    assert.equal(handler.mock.callCount(), 3);
  });

  test("what is no function is not taken", () => assert.throws(() => new Handlers().add("x"), TypeError));
});

describe("loops", () => {
  const make = (limit = 3) => {
    const onEnd = mock.fn();
    return { reader: new Reader(limit, onEnd), onEnd };
  };
  const isDone = async (promise) => (await Promise.race([promise, settle().then(() => "no")])) !== "no";

  test("give what is pushed, before and after it is asked for", async () => {
    const { reader } = make();
    reader.push(1);
    const given = [];
    const loop = (async () => {
      for await (const value of reader) given.push(value);
    })();
    await settle();
    reader.push(2);
    reader.push(3);
    await settle();
    reader.end();
    await loop;
    assert.deepEqual(given, [1, 2, 3]);
  });

  test("an event is dealt with when the next one is asked for", async () => {
    const { reader } = make();
    const [one, two] = [reader.push(1), reader.push(2)];
    await reader.next();
    assert.equal(await isDone(one), false);
    await reader.next();
    assert.equal(await isDone(one), true);
    assert.equal(await isDone(two), false);
    await reader.return();
    assert.equal(await isDone(two), true);
  });

  test("one that is left deals with what waits for it, and hears no more", async () => {
    const { reader, onEnd } = make();
    const waiting = [reader.push(1), reader.push(2)];
    for await (const value of reader) if (value === 1) break;
    await Promise.all(waiting);
    assert.equal(onEnd.mock.callCount(), 1);
    assert.equal(reader.push(3), undefined);
    assert.deepEqual(await reader.next(), { done: true, value: undefined });
  });

  test("one that is too slow gets what waits, and an error", async () => {
    const { reader, onEnd } = make();
    for (const value of [1, 2, 3, 4, 5]) reader.push(value);
    assert.equal(onEnd.mock.callCount(), 1);
    const given = [];
    await assert.rejects(
      async () => {
        for await (const value of reader) given.push(value);
      },
      (error) => error instanceof HeraldError && error.code === "overflow",
    );
    assert.deepEqual(given, [1, 2, 3]);
    assert.deepEqual(await reader.next(), { done: true, value: undefined });
  });

  test("several calls of next at once are served in order", async () => {
    const { reader } = make();
    const results = [reader.next(), reader.next(), reader.next()];
    reader.push(1);
    reader.push(2);
    reader.end();
    assert.deepEqual(await Promise.all(results), [{ done: false, value: 1 }, { done: false, value: 2 }, { done: true, value: undefined }]);
  });
});

describe("progress", () => {
  const later = () => {
    let done;
    return { promise: new Promise((resolve) => (done = resolve)), done };
  };
  const texts = (progress) => JSON.parse(JSON.stringify(toRecord(progress.positions)));

  test("moves on when all before is dealt with", async () => {
    const onChange = mock.fn();
    const progress = new Progress(onChange);
    const [first, second] = [later(), later()];
    progress.take("a", at("1-1"), undefined);
    progress.take("a", at("1-2"), first.promise);
    progress.take("a", at("1-3"), second.promise);
    for (let seq = 4; seq < 10; seq++) progress.take("a", at(`1-${seq}`), undefined);
    progress.take("b", at("7-1"), undefined);
    assert.deepEqual(texts(progress), { a: "1-1", b: "7-1" });
    second.done();
    await settle();
    assert.deepEqual(texts(progress), { a: "1-1", b: "7-1" });
    first.done();
    await settle();
    assert.deepEqual(texts(progress), { a: "1-9", b: "7-1" });
    progress.take("a", at("1-10"), undefined);
    assert.deepEqual(texts(progress), { a: "1-10", b: "7-1" });
    assert.equal(onChange.mock.callCount(), 4);
  });

  test("what was forgotten or set anew is not moved by what ends late", async () => {
    const progress = new Progress(() => {});
    const [first, second] = [later(), later()];
    progress.take("a", at("1-1"), first.promise);
    progress.forget("a");
    progress.take("b", at("1-1"), second.promise);
    progress.set("b", at("9-9"));
    first.done();
    second.done();
    await settle();
    assert.deepEqual(texts(progress), { b: "9-9" });
  });
});

describe("storage", () => {
  const make = (storage, positions = new Map([["all", at("1-2")]])) => {
    const time = new FakeTime();
    const failed = mock.fn();
    const clock = { after: (ms, then) => time.after(ms, then) };
    return { time, failed, store: new PositionStore(storage, "k", clock, () => positions, failed) };
  };
  const memory = (content = {}) => ({
    content,
    writes: 0,
    getItem: (key) => content[key] ?? null,
    setItem(key, value) {
      this.writes++;
      content[key] = value;
    },
  });

  test("changes are gathered", async () => {
    const storage = memory();
    const { store, time } = make(storage);
    for (let times = 0; times < 10; times++) store.changed();
    assert.equal(storage.writes, 0);
    await time.run(1000);
    assert.equal(storage.writes, 1);
    assert.equal(storage.content.k, '{"all":"1-2"}');
    store.flush();
    assert.equal(storage.writes, 1, "nothing has changed");
    store.changed();
    store.flush();
    assert.equal(storage.writes, 2);
    await time.run(1000);
    assert.equal(storage.writes, 2);
    assert.deepEqual([...store.load()], [["all", at("1-2")]]);
  });

  test("what cannot be read is nothing", () => {
    for (const text of ["", "{", "null", "[]", '"x"', '{"all":1}']) assert.equal(make(memory({ k: text })).store.load().size, 0);
    const broken = { getItem() { throw new Error("no"); } };
    assert.equal(make(broken).store.load().size, 0);
  });

  test("a full storage is told", () => {
    const full = { ...memory(), setItem() { throw new Error("full"); } };
    const { store, failed } = make(full);
    store.changed();
    store.flush();
    assert.equal(failed.mock.callCount(), 1);
  });
});

describe("tokens", () => {
  const clock = () => {
    const time = new FakeTime();
    return { time, after: (ms, then) => time.after(ms, then) };
  };

  test("come as they are, from a function, or from a promise", async () => {
    for (const given of ["t", () => "t", async () => "t"]) assert.equal(await askToken(given, clock()), "t");
    for (const none of [null, () => null, async () => null]) assert.equal(await askToken(none, clock()), null);
    assert.equal(await askToken(undefined, clock()), undefined); // a cookie speaks
  });

  test("what is none, and what never comes", async () => {
    for (const wrong of [() => 5, () => "", async () => ({}), () => undefined, async () => undefined]) await assert.rejects(askToken(wrong, clock()), TypeError);
    const patience = clock();
    const asked = askToken(() => new Promise(() => {}), patience);
    const failed = assert.rejects(asked, /30 seconds/);
    await patience.time.run(30_000);
    await failed;
  });

  test("are read, and not believed", () => {
    assert.deepEqual(readClaims(token("älice 🎉", { iat: 5, topics: ["a", "b.*", 5] })), { user: "älice 🎉", issued: 5, expires: 2_000_000_000, topics: ["a"] });
    for (const none of [null, undefined, "", "x", "a.b.c", `a.${btoa("null")}.c`, `a.${btoa('"x"')}.c`]) {
      assert.deepEqual(readClaims(none), { topics: [] });
    }
    assert.deepEqual(readClaims(token(5, { exp: "soon", topics: "a" })), { topics: [] });
  });
});

describe("time", () => {
  test("a timer that is longer than 24 days does not fire at once", async () => {
    const then = mock.fn();
    const cancel = systemClock.after(1e12, then);
    await settle();
    cancel();
    assert.equal(then.mock.callCount(), 0);
  });

  test("what has passed is what the clock that ran further says", (t) => {
    const before = systemClock.elapsed();
    let now = Date.now();
    t.mock.method(Date, "now", () => now);
    now += 3_600_000; // the machine slept
    const slept = systemClock.elapsed() - before;
    assert.ok(slept >= 3_600_000, `${slept}`);
    now -= 7_200_000; // the clock was set back
    const back = systemClock.elapsed() - before - slept;
    assert.ok(back >= 0 && back < 60_000, `${back}`);
  });

  test("a timer that is started again replaces the one before", async () => {
    const time = new FakeTime();
    const timers = new Timers({ after: (ms, then) => time.after(ms, then) });
    const calls = [];
    timers.start("a", 10, () => calls.push("a1"));
    timers.start("a", 20, () => calls.push("a2"));
    timers.start("b", 10, () => calls.push("b"));
    timers.start("c", 10, () => calls.push("c"));
    timers.stop("c");
    await time.run(15);
    assert.deepEqual(calls, ["b"]);
    timers.stopAll();
    await time.run(100);
    assert.deepEqual(calls, ["b"]);
  });
});
