// In Chromium, against the real service.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { Browser } from "../support/browser.js";
import { Proxy } from "../support/proxy.js";
import { Engine, Herald, newName, total } from "../support/service.js";
import { until } from "../support/waiting.js";

let engine;
let herald;
let proxy;
let browser;
before(async () => {
  engine = await Engine.start();
  [herald, browser] = await Promise.all([Herald.start(engine), Browser.start()]);
  proxy = await Proxy.start(herald.port);
});
after(async () => {
  await browser?.stop();
  await proxy?.stop();
  await herald?.stop("SIGKILL");
  await engine?.stop();
});
afterEach(async () => {
  await Promise.all(browser.context.pages().map((page) => page.close()));
  proxy.mode = "pass";
  await until(async () => (await connections()) === 0, "all connections are closed");
});

const connections = () => total(herald, "herald_connections");
const oneConnection = () => until(async () => (await connections()) === 1, "there is one connection");
const publish = (user, from, to) => herald.publishAll(`user:${user}`, from, to);

/** Publishes 40 numbers, and cuts connections off in the middle. */
async function cutWhilePublishing(user, tab, number) {
  const before = publish(user, number, number + 20);
  await tab.has(number + 10);
  proxy.cut();
  await before;
  await publish(user, number + 20, number + 40);
}

test("connects, and receives what is published", async () => {
  const user = newName();
  const tab = await browser.open(herald.url, user);
  assert.deepEqual(await tab.live(), { name: "live", user, transport: "websocket" });
  await publish(user, 0, 20);
  await tab.has(20);
  await tab.assertExact(0, 20);
  tab.assertQuiet();
});

test("a reload resumes where the page was", async () => {
  const user = newName();
  const tab = await browser.open(herald.url, user, { storage: "local" });
  await tab.live();
  let number = 0;
  for (let times = 0; times < 5; times++) {
    const publishing = publish(user, number, number + 40);
    await until(async () => (await tab.heard()).length >= number + 5);
    await tab.page.reload();
    await tab.loaded();
    await publishing;
    number += 40;
    await until(async () => (await tab.heard()).length >= number, `${number} events`);
  }
  assert.deepEqual(await tab.heard(), Array.from({ length: number }, (_, each) => each));
  await tab.assertNoGap();
  tab.assertQuiet();
});

test("offline and online", async () => {
  const user = newName();
  const tab = await browser.open(proxy.url, user);
  await tab.live();
  await publish(user, 0, 5);
  await tab.has(5);
  await browser.context.setOffline(true);
  proxy.cut();
  await until(async () => (await tab.state()).name === "waiting");
  await publish(user, 5, 10);
  await browser.context.setOffline(false);
  await tab.has(10);
  await tab.assertExact(0, 10);
  tab.assertQuiet({ network: true });
});

test("tabs share one connection, also when the one that has it is closed or reloaded", async () => {
  const user = newName();
  const options = { shared: true };
  const tabs = [];
  for (let count = 0; count < 3; count++) tabs.push(await browser.open(herald.url, user, options));
  for (const tab of tabs) await tab.live();
  await oneConnection();
  await publish(user, 0, 10);
  for (const tab of tabs) await tab.has(10);

  const publishing = publish(user, 10, 60);
  await tabs[1].has(20);
  await tabs[0].page.close();
  await publishing;
  for (const tab of tabs.slice(1)) {
    await tab.has(60);
    await tab.assertExact(0, 60);
  }
  await oneConnection();

  const more = publish(user, 60, 110);
  await tabs[2].has(70);
  await tabs[1].page.reload();
  await more;
  await tabs[2].has(110);
  await tabs[2].assertExact(0, 110);
  await tabs[1].loaded();
  await tabs[1].live();
  await publish(user, 110, 111);
  await until(async () => (await tabs[1].told()).events.at(-1) === 110);
  await oneConnection();
  for (const tab of tabs) tab.assertQuiet();
});

test("a tab that shares a connection may ask for all that is retained, and the others hear nothing twice", async () => {
  const user = newName();
  const tabs = [await browser.open(herald.url, user, { shared: true })];
  await tabs[0].live();
  await publish(user, 0, 10);
  await tabs[0].has(10);
  const positions = { [`user:${user}`]: "0-0" };
  tabs.push(await browser.open(herald.url, user, { shared: true, positions }));
  await tabs[1].has(10);
  await publish(user, 10, 20);
  for (const tab of tabs) {
    await tab.has(20);
    await tab.assertExact(0, 20);
    tab.assertQuiet();
  }
  await tabs[0].page.close();
  await publish(user, 20, 30);
  await tabs[1].has(30);
  await tabs[1].assertExact(0, 30);
  await oneConnection();
});

test("tabs that share one connection lose nothing where it breaks", async () => {
  const user = newName();
  const tabs = [];
  for (let count = 0; count < 2; count++) tabs.push(await browser.open(proxy.url, user, { shared: true }));
  for (const tab of tabs) await tab.live();
  let number = 0;
  for (let times = 0; times < 3; times++) {
    await cutWhilePublishing(user, tabs[1], number);
    number += 40;
  }
  for (const tab of tabs) {
    await tab.has(number);
    await tab.assertExact(0, number);
    tab.assertQuiet({ network: true });
  }
  await oneConnection();
});

test("where WebSockets are blocked it falls back to server-sent events", async () => {
  proxy.mode = "websockets-blocked";
  const user = newName();
  const tab = await browser.open(proxy.url, user);
  assert.equal((await tab.live()).transport, "sse");
  let number = 0;
  for (let times = 0; times < 3; times++) {
    await cutWhilePublishing(user, tab, number);
    number += 40;
  }
  await tab.has(number);
  await tab.assertExact(0, number);
  assert.equal((await tab.live()).transport, "sse");
  tab.assertQuiet({ network: true });
});

test("a page that comes back from the browser's cache resumes", async () => {
  for (const options of [{}, { shared: true }]) {
    const user = newName();
    const tab = await browser.open(herald.url, user, options);
    await tab.live();
    await publish(user, 0, 3);
    await tab.has(3);
    await tab.page.goto(`${browser.origin}/elsewhere`);
    await until(async () => (await connections()) === 0, "the page that was left has no connection");
    await publish(user, 3, 6);
    // Playwright waits for a load that does not come.
    await tab.page.evaluate(() => history.back());
    await tab.page.waitForFunction(() => window.told?.shows);
    await tab.has(6);
    await tab.assertExact(0, 6);
    assert.equal((await tab.told()).shows, 1, "it came from the cache");
    tab.assertQuiet();
    await tab.page.close();
  }
});

test("the bundle for pages without a build step works as the modules do", async () => {
  const user = newName();
  const tab = await browser.open(herald.url, user, {}, "/bundle.js");
  assert.deepEqual(await tab.live(), { name: "live", user, transport: "websocket" });
  await publish(user, 0, 3);
  await tab.has(3);
  await tab.assertExact(0, 3);
  tab.assertQuiet();
});
