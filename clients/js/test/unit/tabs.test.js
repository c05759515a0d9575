// One connection for all tabs: told, and tried by chance.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Herald } from "../../dist/herald.js";
import { FakeServer } from "../support/fake-server.js";
import { FakeBrowser, randomFrom, token } from "../support/machine.js";

const shared = { shared: true };

describe("tabs that share a connection", () => {
  test("have one, and hear the same", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const tabs = [1, 2, 3].map(() => browser.open(shared));
    await browser.time.run(1000);
    assert.equal(server.live, 1);
    for (const tab of tabs) assert.deepEqual(tab.herald.state, { name: "live", user: "alice", transport: "websocket" });
    server.publish("user:alice", 1);
    server.publish("all", 2);
    await browser.time.run(10);
    for (const tab of tabs) assert.deepEqual(tab.data(), [1, 2]);
    assert.deepEqual(tabs[0].herald.positions, tabs[2].herald.positions);
  });

  for (const end of ["shut", "crash"]) {
    test(`lose nothing where the leader is ${end}`, async () => {
      const server = new FakeServer();
      const browser = new FakeBrowser(server);
      const [leader, ...others] = [1, 2, 3].map(() => browser.open(shared));
      await browser.time.run(1000);
      server.publish("all", 1);
      await browser.time.run(10);
      leader[end]();
      server.publish("all", 2);
      await browser.time.run(1000);
      server.publish("all", 3);
      await browser.time.run(10);
      assert.equal(server.live, 1);
      for (const tab of others) {
        assert.deepEqual(tab.data(), [1, 2, 3]);
        assert.deepEqual(tab.told.gaps, []);
      }
    });
  }

  test("a tab that comes later hears what follows", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const first = browser.open(shared);
    await browser.time.run(1000);
    server.publish("all", 1);
    await browser.time.run(10);
    const second = browser.open(shared);
    await browser.time.run(10);
    server.publish("all", 2);
    await browser.time.run(10);
    assert.deepEqual(first.data(), [1, 2]);
    assert.deepEqual(second.data(), [2]);
    assert.deepEqual(second.names, ["live"]);
    assert.equal(server.said.filter(({ type }) => type === "connect").length, 1);
  });

  test("a tab that has positions hears what came after them", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const first = browser.open(shared);
    await browser.time.run(1000);
    for (const number of [1, 2, 3]) server.publish("all", number);
    await browser.time.run(10);
    const second = browser.open({ ...shared, positions: { all: "100-1" } });
    await browser.time.run(1000);
    assert.deepEqual(first.data(), [1, 2, 3]);
    assert.deepEqual(second.data(), [2, 3]);
  });

  test("what is not retained any more is a gap for that tab alone", async () => {
    const server = new FakeServer({ kept: 2 });
    const browser = new FakeBrowser(server);
    const first = browser.open(shared);
    await browser.time.run(1000);
    for (const number of [1, 2, 3, 4, 5]) server.publish("all", number);
    await browser.time.run(10);
    const second = browser.open({ ...shared, positions: { all: "100-1" } });
    await browser.time.run(1000);
    assert.deepEqual(first.data(), [1, 2, 3, 4, 5]);
    assert.deepEqual(first.told.gaps, []);
    assert.deepEqual(second.data(), [4, 5]);
    assert.deepEqual(second.told.gaps, [{ channel: "all", from: "100-1", to: "100-3" }]);
  });

  test("one that was frozen and heard nothing of it hears it when it thaws", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const [, other] = [browser.open(shared), browser.open(shared)];
    await browser.time.run(1000);
    other.freeze();
    server.publish("all", 1);
    await browser.time.run(100_000);
    other.thaw({ hears: false });
    await browser.time.run(3000);
    assert.deepEqual(other.data(), [1]);
  });

  test("one that follows may resume a topic from a position", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const [one, two] = [browser.open(shared), browser.open(shared)];
    await browser.time.run(1000);
    for (const number of [1, 2, 3]) server.publish("topic:a", number);
    two.herald.subscribe("a", "100-1");
    await browser.time.run(1000);
    assert.deepEqual(two.data(), [2, 3]);
    one.herald.subscribe("a", "100-2");
    await browser.time.run(1000);
    assert.deepEqual(one.data(), [3]);
    assert.deepEqual(two.data(), [2, 3]);
  });

  test("a leader takes over topics that are not its own from where they were", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const first = browser.open({ ...shared, topics: ["b"] });
    await browser.time.run(100);
    browser.open(shared);
    await browser.time.run(100);
    const third = browser.open({ ...shared, topics: ["b"] });
    await browser.time.run(100);
    first.shut();
    server.publish("topic:b", 1);
    await browser.time.run(1000);
    assert.deepEqual(third.data(), [1]);
  });

  test("each hears the topics that it wants, and the server is asked for all of them", async () => {
    const server = new FakeServer();
    server.topics = ["granted"];
    const browser = new FakeBrowser(server);
    const given = { ...shared, token: token("alice", { topics: ["granted", "news.*"] }) };
    const one = browser.open({ ...given, topics: ["a"] });
    const two = browser.open({ ...given, topics: ["b"] });
    await browser.time.run(1000);
    const publish = async () => {
      for (const name of ["a", "b", "c", "granted"]) server.publish(`topic:${name}`, name);
      await browser.time.run(1000);
    };
    await publish();
    assert.deepEqual(one.data(), ["a", "granted"]);
    assert.deepEqual(two.data(), ["b", "granted"]);
    two.herald.subscribe("a");
    two.herald.subscribe("c");
    two.herald.unsubscribe("granted");
    await browser.time.run(1000);
    await publish();
    assert.deepEqual(one.data().slice(2), ["a", "granted"]);
    assert.deepEqual(two.data().slice(2), ["a", "b", "c"]);
    one.herald.unsubscribe("a");
    two.herald.unsubscribe("a");
    await browser.time.run(1000);
    assert.deepEqual(server.said.filter(({ type }) => type === "unsubscribe"), [{ type: "unsubscribe", topic: "a" }]);
    one.herald.unsubscribe("granted"); // the one that leads
    two.herald.subscribe("granted");
    await browser.time.run(1000);
    await publish();
    assert.deepEqual(one.data().slice(4), []);
    assert.deepEqual(two.data().slice(5), ["b", "c", "granted"]);
    one.shut();
    await browser.time.run(1000);
    await publish();
    assert.deepEqual(two.data().slice(8), ["b", "c", "granted"]);
  });

  test("what the token names stays joined for the others where the leader leaves it", async () => {
    const server = new FakeServer();
    server.topics = ["granted"];
    const browser = new FakeBrowser(server);
    const given = { ...shared, token: token("alice", { topics: ["granted"] }) };
    const [one, two] = [browser.open(given), browser.open(given)];
    await browser.time.run(1000);
    one.herald.unsubscribe("granted");
    await browser.time.run(1000);
    server.publish("topic:granted", 1);
    await browser.time.run(1000);
    assert.deepEqual([one.data(), two.data()], [[], [1]]);
  });

  test("topics of a tab that crashed are left", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    browser.open(shared);
    const two = browser.open({ ...shared, topics: ["b"] });
    await browser.time.run(1000);
    two.crash();
    await browser.time.run(1000);
    assert.deepEqual(server.said.at(-1), { type: "unsubscribe", topic: "b" });
  });

  test("a topic that is wanted again at once is not lost", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    browser.open(shared);
    const two = browser.open({ ...shared, topics: ["b"] });
    await browser.time.run(1000);
    two.herald.unsubscribe("b");
    two.herald.subscribe("b");
    await browser.time.run(1000);
    server.publish("topic:b", 1);
    await browser.time.run(10);
    assert.deepEqual(two.data(), [1]);
  });

  test("what a token forbids only the tab is told that wanted it", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const one = browser.open(shared);
    const two = browser.open({ ...shared, topics: ["b"] });
    await browser.time.run(1000);
    const [socket] = server.sockets.keys();
    socket.say({ type: "error", code: "forbidden", message: "no", channel: "topic:b" });
    await browser.time.run(10);
    assert.deepEqual(one.told.errors, []);
    assert.deepEqual(two.told.errors.map(({ code }) => code), ["forbidden"]);
    const before = server.said.length;
    two.herald.subscribe("c");
    await browser.time.run(10);
    assert.deepEqual(server.said.slice(before), [{ type: "subscribe", topic: "c" }]);
  });

  test("a leader that is frozen is replaced by a tab that is seen, and hears all when it thaws", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const [leader, other] = [browser.open(shared), browser.open(shared)];
    await browser.time.run(1000);
    leader.freeze();
    server.publish("all", 1);
    await browser.time.run(60_000);
    server.publish("all", 2);
    await browser.time.run(10);
    assert.deepEqual(other.data(), [1, 2]);
    for (const hears of [false, true]) {
      leader.thaw({ hears });
      await browser.time.run(10_000);
      assert.deepEqual(leader.data(), [1, 2]);
      assert.equal(server.live, 1);
    }
  });

  test("a tab that is not seen leaves a silent leader alone", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const [leader, other] = [browser.open(shared), browser.open(shared)];
    await browser.time.run(1000);
    other.visible = false;
    leader.freeze();
    await browser.time.run(120_000);
    assert.equal(server.said.filter(({ type }) => type === "connect").length, 1);
  });

  test("a leader that is refused gives way, and the next one finds out for itself", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const [one, two] = [browser.open(shared), browser.open(shared)];
    await browser.time.run(1000);
    server.cut(4101);
    await browser.time.run(1000);
    assert.equal(one.herald.state.why, "refused");
    assert.equal(two.herald.state.name, "live");
    one.herald.close();
    two.herald.close();
    await browser.time.run(10);
    assert.equal(server.live, 0);
  });

  test("a page that goes and comes back from the browser's cache hears all", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const [one, two] = [browser.open(shared), browser.open(shared)];
    await browser.time.run(1000);
    one.fire("pagehide", { persisted: true });
    await browser.time.run(1000);
    server.publish("all", 1);
    await browser.time.run(1000);
    assert.deepEqual(two.data(), [1]);
    assert.deepEqual(one.data(), []);
    one.fire("pageshow", { persisted: true });
    await browser.time.run(1000);
    assert.deepEqual(one.data(), [1]);
    assert.equal(server.live, 1);
  });

  test("users do not share", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const alice = browser.open(shared);
    const bob = browser.open({ ...shared, token: token("bob") });
    await browser.time.run(1000);
    assert.equal(server.live, 2);
    server.publish("user:bob", 1);
    await browser.time.run(10);
    assert.deepEqual(alice.data(), []);
    assert.deepEqual(bob.data(), [1]);
  });

  test("who is not known shares with nobody", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const opaque = `e30.${Buffer.from('{"sub":5}').toString("base64url")}.x`;
    const tabs = [1, 2].map(() => browser.open({ ...shared, token: opaque }));
    await browser.time.run(1000);
    assert.equal(server.live, 2);
    server.publish("all", 1);
    await browser.time.run(10);
    for (const tab of tabs) assert.deepEqual(tab.data(), [1]);
  });

  for (const who of ["leads", "follows"]) {
    test(`a tab that ${who} may ask for all that is kept`, async () => {
      const server = new FakeServer();
      const browser = new FakeBrowser(server);
      const [one, two] = [browser.open(shared), browser.open(shared)];
      await browser.time.run(1000);
      for (const number of [1, 2, 3]) server.publish("topic:a", number);
      const [asks, other] = who === "leads" ? [one, two] : [two, one];
      other.herald.subscribe("a");
      await browser.time.run(1000);
      asks.herald.subscribe("a", "0-0");
      await browser.time.run(10_000);
      server.publish("topic:a", 4);
      await browser.time.run(10_000);
      server.publish("topic:a", 5);
      await browser.time.run(10_000);
      assert.deepEqual(asks.data(), [1, 2, 3, 4, 5]);
      assert.deepEqual(other.data(), [4, 5]);
      assert.ok(server.said.filter(({ type }) => type === "connect").length <= 2);
    });
  }

  test("a position that is given for a topic that was just left counts", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    for (const number of [1, 2, 3]) server.publish("topic:a", number);
    const tab = browser.open({ ...shared, topics: ["a"] });
    await browser.time.run(1000);
    tab.herald.unsubscribe("a");
    tab.herald.subscribe("a", "100-1");
    await browser.time.run(1000);
    assert.deepEqual(tab.data(), [2, 3]);
  });

  test("where locks turn out to be forbidden, a tab has all that it asked for meanwhile", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    let forbid;
    const { environment } = browser.open();
    const locks = { request: () => new Promise((_, reject) => (forbid = () => reject(new DOMException("no", "SecurityError")))) };
    const herald = new Herald("wss://herald.test", { ...shared, token: token("bob") }, { ...environment, locks });
    const data = [];
    herald.on("*", (event) => void data.push(event.data));
    await browser.time.run(100);
    herald.subscribe("a");
    forbid();
    await browser.time.run(1000);
    server.publish("topic:a", 1);
    await browser.time.run(10);
    assert.deepEqual(data, [1]);
  });

  test("where the user has changed, the new one's events are for the new one's tabs alone", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    let user = "alice";
    const expires = browser.time.time / 1000 + 60;
    const give = () => token(user, user === "alice" ? { exp: expires } : {});
    const one = browser.open({ ...shared, token: give });
    await browser.time.run(1000);
    const two = browser.open(shared);
    await browser.time.run(1000);
    user = "bob";
    server.refuses = 1013;
    server.cut();
    await browser.time.run(120_000);
    server.refuses = 0;
    await browser.time.run(20_000);
    server.publish("user:bob", "b");
    server.publish("user:alice", "a");
    await browser.time.run(1000);
    assert.equal(one.herald.state.user, "bob");
    assert.equal(two.herald.state.user, "alice");
    assert.deepEqual([one.data(), two.data()], [["b"], ["a"]]);
  });

  test("the tab that leads stores the positions", async () => {
    const server = new FakeServer();
    const browser = new FakeBrowser(server);
    const options = { ...shared, storage: "local" };
    const [one, two] = [browser.open(options), browser.open(options)];
    await browser.time.run(1000);
    server.publish("all", 1);
    await browser.time.run(1000);
    const stored = () => JSON.parse([...browser.stored.values()][0]);
    assert.equal(stored().all, "100-1");
    one.shut();
    await browser.time.run(1000);
    server.publish("all", 2);
    await browser.time.run(1000);
    assert.equal(stored().all, "100-2");
    two.shut();
    server.publish("all", 3);
    const three = browser.open(options);
    await browser.time.run(1000);
    assert.deepEqual(three.data(), [3]);
  });
});

/** From where a tab was at when it was first live, nothing is missing where no gap is told, or twice. */
function check(tab, server, channel) {
  const mine = tab.story.filter((each) => each.channel === channel);
  let at = tab.start[channel];
  for (const { id, from, to } of mine) {
    if (id) assert.equal(id, next(at), `${channel}: ${JSON.stringify(mine)}`);
    else assert.equal(from, at);
    at = id ?? to;
  }
  const log = server.log(channel);
  assert.equal(at, `${log.epoch}-${log.seq}`, `${channel}: the end was not heard`);
}

/** As `check`, for a topic that is joined and left: between that, and after a place, nothing is missing. */
function checkWanted(tab, server) {
  const mine = tab.story.filter((each) => each.channel === "topic:u");
  let at;
  for (const { id, to, left, at: given } of mine) {
    if (id && at) assert.equal(id, next(at), `topic:u: ${JSON.stringify(mine)}`);
    at = left || given === "0-0" ? undefined : id ?? to ?? given;
  }
  const log = server.log("topic:u");
  const end = `${log.epoch}-${log.seq}`;
  if (tab.wants) assert.equal(at, end, `topic:u: the end was not heard: ${JSON.stringify(mine)}`);
  else assert.notEqual(at, end, `topic:u: it was heard after it was left: ${JSON.stringify(mine)}`);
}

const next = (position) => position.replace(/\d+$/, (seq) => Number(seq) + 1);

async function story(seed) {
  const random = randomFrom(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const server = new FakeServer({ kept: random() < 0.3 ? 5 : 10_000 });
  const browser = new FakeBrowser(server, random);
  const open = () => {
    const tab = browser.open({ ...shared, topics: random() < 0.5 ? ["t"] : [] });
    tab.story = [];
    tab.herald.on("*", ({ channel, id }) => tab.story.push({ channel, id }));
    tab.herald.onGap((gap) => tab.story.push({ ...gap, gap: true }));
    tab.herald.onState(({ name }) => {
      if (name === "live") tab.start ??= tab.herald.positions;
    });
  };
  open();
  let losses = 0;
  const acts = {
    publish: () => server.publish(pick(["all", "user:alice", "topic:t", "topic:u"]), 0),
    want: () => {
      const tab = pick([...browser.tabs].filter(({ frozen }) => !frozen));
      if (!tab) return;
      tab.wants = !tab.wants;
      if (tab.wants) tab.herald.subscribe("u");
      else tab.herald.unsubscribe("u");
      if (!tab.wants) tab.story.push({ channel: "topic:u", left: true });
    },
    // Joined, or joined already: all that is kept, or what follows a place.
    resume: () => {
      const tab = pick([...browser.tabs].filter(({ frozen }) => !frozen));
      if (!tab) return;
      const { epoch, seq } = server.log("topic:u");
      const position = random() < 0.5 ? "0-0" : `${epoch}-${Math.max(0, seq - Math.floor(random() * 4))}`;
      tab.wants = true;
      tab.story.push({ channel: "topic:u", at: position });
      tab.herald.subscribe("u", position);
    },
    burst: () => Array.from({ length: 8 }, acts.publish),
    open: () => browser.tabs.size < 5 && open(),
    shut: () => pick([...browser.tabs])?.shut(),
    crash: () => pick([...browser.tabs])?.crash(),
    cut: () => server.cut(pick([1006, 1012, 4000])),
    freeze: () => pick([...browser.tabs])?.freeze(),
    thaw: () => pick([...browser.tabs].filter(({ frozen }) => frozen))?.thaw({ hears: random() < 0.5 }),
    hide: () => {
      const tab = pick([...browser.tabs]);
      if (tab) tab.visible = !tab.visible;
    },
    away: () => {
      const tab = pick([...browser.tabs].filter(({ frozen }) => !frozen));
      tab?.fire("pagehide", { persisted: true });
      setImmediate(() => tab?.fire("pageshow", { persisted: true }));
    },
    // As a rule with a higher number.
    lose: () => random() < 0.3 && server.loseAll(pick([1, -1]) * ++losses + 100),
    wait: () => browser.time.run(30_000),
  };
  const often = ["publish", "publish", "publish", "publish", "burst", "open", "want", "resume"];
  const did = [];
  for (let step = 0; step < 60; step++) {
    const name = random() < 0.6 ? pick(often) : pick(Object.keys(acts));
    did.push(name);
    await acts[name]();
    if (random() < 0.5) await browser.time.run(Math.floor(random() * 400));
  }
  for (const tab of browser.tabs) {
    tab.visible = true;
    if (tab.frozen) tab.thaw({ hears: random() < 0.5 });
  }
  if (browser.tabs.size === 0) open();
  await browser.time.run(60_000);
  for (const channel of ["all", "user:alice", "topic:t", "topic:u"]) server.publish(channel, "end");
  await browser.time.run(60_000);
  try {
    assert.equal(server.live, 1, "connections");
    for (const tab of browser.tabs) {
      assert.equal(tab.herald.state.name, "live");
      assert.ok("all" in tab.start && "user:alice" in tab.start);
      for (const channel of ["all", "user:alice", "topic:t"]) {
        if (channel in tab.start) check(tab, server, channel);
      }
      checkWanted(tab, server);
    }
  } catch (error) {
    throw new Error(`SEED=${seed}: ${did.join(" ")}`, { cause: error });
  }
}

const first = Number(process.env.SEED ?? 1);
const stories = Number(process.env.STORIES ?? (process.env.SEED ? 1 : 200));
test(`${stories} stories of tabs that come, go, freeze and crash`, async () => {
  for (let seed = first; seed < first + stories; seed++) await story(seed);
});
