/** What a newcomer does on the page, and what they are shown. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openPage, publish, runTrial, startBrowser, startDev, eventually } from "./harness.mjs";

let dev;
let browser;

before(async () => {
  dev = await startDev();
  browser = await startBrowser();
});

after(async () => {
  await browser.close();
  await dev.stop();
});

/** A test with a page of its own. */
function onPage(name, then, { expected } = {}) {
  test(name, async () => {
    const opened = await openPage(browser, dev);
    await then(opened);
    await opened.close(expected);
  });
}

onPage("connects, publishes, and sees the event arrive with its latency", async ({ page, pane }) => {
  await pane().connect();
  await publish(page);
  await pane().row("event", "order.shipped");
  const [row] = await pane().rows("event");
  assert.match(row, /order\.shippeduser:alice(<1|\d+) ms\{"order":17\}\d+-\d+/);
  const answer = page.locator(".answer").first();
  await answer.getByText(/Reached alice in/).waitFor();
  assert.match(await answer.textContent(), /^202user:alice\d+ ms|^202user:alice<1 ms/);
  const position = /\d{10,}-\d+/.exec(row)[0];
  assert.ok((await answer.textContent()).includes(position), "the answer and the event name one position");
  assert.equal(await pane().number("events"), "1");
  assert.match(await pane().number("median"), /ms$/);
});

onPage("several panes, over both transports, each get what is theirs", async ({ page, pane }) => {
  await pane().connect({ topics: "news" });
  await page.getByRole("button", { name: "Add a pane" }).click();
  await pane(1).connect({ user: "bob", topics: "news, art", transport: "sse" });
  await publish(page, { to: "topic:news", type: "both" });
  await publish(page, { to: "topic:art", type: "one" });
  await publish(page, { to: "all", type: "everyone" });
  for (const number of [0, 1]) {
    await pane(number).row("event", "both");
    await pane(number).row("event", "everyone");
  }
  await pane(1).row("event", "one");
  assert.equal((await pane(0).rows("event")).length, 2);
  await page.locator(".answer", { hasText: "topic:news" }).getByText(/Reached .*alice in .*; bob in|Reached bob in .*; alice in/).waitFor();
  await publish(page, { to: "user:carol", type: "nobody" });
  await page.locator(".answer").first().getByText("Nobody here has it yet").waitFor();
  assert.equal(await pane(0).number("duplicates"), "0");
});

onPage("a burst arrives whole, in order, and the log shows its end", async ({ page, pane }) => {
  await pane().connect();
  await publish(page, { count: 2000 });
  await page.locator(".answer").first().getByText("Reached alice 2,000 of 2,000").waitFor();
  assert.equal(await pane().number("events"), "2,000");
  const seqs = (await pane().rows("event")).map((row) => Number(/-(\d+)$/.exec(row)[1]));
  assert.ok(seqs.length <= 200);
  assert.ok(seqs.every((seq, index) => index === 0 || seq === seqs[index - 1] + 1));
  await pane().row("note", "earlier rows are not shown");
});

onPage("JSON is checked while it is written, and what is none is not sent", async ({ page }) => {
  const data = page.locator("#data");
  const says = page.locator("#data-says");
  for (const [text, expected] of [
    ['{"order": 17', /Not JSON yet/],
    ["{'order': 17}", /double quotes/],
    ['{\n"a": 1\n"b": 2}', /line 3/],
    ["", /null is the least/],
  ]) {
    await data.fill(text);
    assert.match(await says.textContent(), expected);
    assert.equal(await data.getAttribute("aria-invalid"), "true");
  }
  await publish(page);
  assert.equal(await page.locator(".answer").count(), 0);
  assert.equal(await page.evaluate(() => document.activeElement.id), "data");
  await publish(page, { data: '[1, 2.50, "a  b", 12345678901234567890]' });
  assert.equal(await says.textContent(), "");
  await page.locator(".status", { hasText: "202" }).waitFor();
  assert.match(await page.locator("#publish-code code").textContent(), /"data":\[1,2\.50,"a {2}b",12345678901234567890\]/);
  await page.locator("#to").fill("nobody");
  assert.match(await page.locator("#to-says").textContent(), /user:<id>, topic:<name> or all/);
});

onPage("the same id twice is a duplicate, and says so", async ({ page, pane }) => {
  await pane().connect({ user: "ida" });
  await page.locator(".more summary").click();
  await publish(page, { to: "user:ida", id: `order-${Date.now()}` });
  await pane().row("event", "order.shipped");
  await publish(page);
  await page.locator(".answer").first().getByText("A duplicate").waitFor();
  assert.equal((await pane().rows("event")).length, 1);
  await publish(page, { data: "0" });
  await page.locator(".status.bad", { hasText: "422" }).waitFor();
}, { expected: /422/ });

onPage("a cut line comes back by itself, and goes on", async ({ page, pane }) => {
  for (const transport of ["websocket", "sse"]) {
    await pane().connect({ user: `cut-${transport}`, transport });
    await pane().button("Cut").click();
    await pane().row("note", "cut off, without a close");
    await eventually(async () => (await pane().rows("note.live")).length === 2, "it is live again");
    await publish(page, { to: `user:cut-${transport}` });
    await pane().row("event", "order.shipped");
    assert.equal(await pane().number("gaps"), "0");
    await pane().button("Close").click();
    await pane().is("closed");
  }
});

onPage("a dropped line stays away until Resume, and misses nothing", async ({ page, pane }) => {
  for (const transport of ["websocket", "sse"]) {
    const user = `drop-${transport}`;
    await pane().connect({ user, transport });
    await publish(page, { to: `user:${user}`, type: "before" });
    await pane().row("event", "before");
    await pane().button("Drop").click();
    await pane().is("away");
    await publish(page, { type: "missed", count: 3 });
    await page.locator(".answer").first().getByText("Nobody here has it yet").waitFor();
    await pane().button("Resume").click();
    await pane().is("live");
    await eventually(async () => (await pane().rows("event.late")).length === 3, "what was missed came");
    await page.locator(".answer").first().getByText("3 of 3, once back").waitFor();
    assert.equal(await pane().number("gaps"), "0");
    assert.equal(await pane().number("duplicates"), "0");
    await page.locator("#count").fill("1");
    await pane().button("Close").click();
  }
});

test("a token that expires closes the connection, and a new one opens it again", async () => {
  const short = await startDev({ JWT_LEEWAY: 0 });
  const opened = await openPage(browser, short);
  const other = opened.pane();
  await other.root.locator("[name=life]").evaluate((select) => {
    select.add(new Option("2 s", "2 expire"));
    select.add(new Option("2 s, renewed", "2"));
  });
  await other.connect({ life: "2 expire" });
  await other.row("note", "closed with 3000");
  await other.is("live");
  await other.button("Close").click();
  await other.connect({ life: "2" });
  await other.row("note", "showed a new token");
  assert.equal((await other.rows("note")).filter((row) => row.includes("3000")).length, 0);
  await opened.close();
  await short.stop();
});

onPage("a lost line, a gap, a drain and a slow consumer happen", async ({ page, pane }) => {
  await page.getByRole("button", { name: "Add a pane" }).click();
  await pane(1).connect({ user: "bob", transport: "sse" });
  const lost = await runTrial(page, "drop"); // connects alice by itself
  assert.match(lost.at(-1), /^All 3 came, in order, no gap, none twice\.$/);
  const gap = await runTrial(page, "gap");
  assert.ok(gap.some((step) => step.includes("Published 120 events; the log keeps 100.")));
  assert.match(gap.at(-2), /Told of the gap before anything later: 20 events after \d+-\d+ are gone\./);
  assert.equal(gap.at(-1), "Then the 100 events that the log still had.");
  assert.equal((await pane().rows("gap")).length, 1);
  assert.equal(await pane().number("gaps"), "1");
  assert.ok(await pane().root.locator(".row.gap").isVisible());
  const drain = await runTrial(page, "drain");
  assert.equal(drain[0], "2 connections told to reconnect, and closed with 1012.");
  assert.match(drain.at(-2), /alice after .*bob after|bob after .*alice after/);
  assert.equal(drain.at(-1), "The event came; nothing was lost.");
  for (const number of [0, 1]) {
    await pane(number).row("note", "told to come back");
    await pane(number).row("note", "closed with 1012");
  }
  const slow = await runTrial(page, "slow");
  assert.match(slow[1], /closed the stream with 4000/);
  assert.match(slow[2], /“reads too slowly”, 4000/);
  assert.match(slow.at(-1), /^Resumed: all \d+ events, in order, none missing, none twice\.$/);
  await pane().is("live"); // and nobody else was held up
});

onPage("trials work over server-sent events, too", async ({ page, pane }) => {
  await pane().connect({ user: "sally", transport: "sse" });
  assert.match((await runTrial(page, "drop")).at(-1), /^All 3 came, in order, no gap, none twice\.$/);
  assert.match((await runTrial(page, "gap")).at(-1), /^Then the 100 events/);
  assert.equal((await runTrial(page, "drain")).at(-1), "The event came; nothing was lost.");
});

onPage("what comes twice is dropped, and counted", async ({ page, pane }) => {
  await page.routeWebSocket(/\/v1\/ws$/, (socket) => {
    const server = socket.connectToServer();
    server.onMessage((message) => {
      socket.send(message);
      if (JSON.parse(message).type === "event") socket.send(message);
    });
  });
  await pane().connect({ user: "twice" });
  await publish(page, { to: "user:twice", count: 5 });
  await eventually(async () => (await pane().number("duplicates")) === "5", "five were counted");
  assert.equal((await pane().rows("event")).length, 5);
});

onPage("more streams than a browser can hold are refused with the reason", async ({ page, pane }) => {
  for (let number = 0; number < 5; number++) {
    if (number) await page.getByRole("button", { name: "Add a pane" }).click();
    if (number < 4) await pane(number).connect({ transport: "sse" });
  }
  await pane(4).root.locator("[name=transport]").selectOption("sse");
  await pane(4).button("Connect").click();
  await pane(4).root.getByText("six HTTP/1.1 connections").waitFor();
  await pane(4).connect({ transport: "websocket" });
  await publish(page, { to: "all" });
  for (let number = 0; number < 5; number++) await pane(number).row("event", "order.shipped");
});

onPage("panes can be removed, and what the form suggests follows", async ({ page, pane }) => {
  await page.getByRole("button", { name: "Add a pane" }).click();
  const chips = () => page.locator(".chip").allTextContents();
  assert.ok((await chips()).includes("user:bob"));
  await page.locator(".chip", { hasText: "user:bob" }).click();
  assert.equal(await page.locator("#to").inputValue(), "user:bob");
  await page.getByRole("button", { name: "Remove the pane of bob" }).click();
  assert.equal(await page.locator(".pane").count(), 1);
  assert.ok(!(await chips()).includes("user:bob"));
  await pane().connect();
  await pane().button("Close").click();
  await pane().root.locator("[name=user]").fill("zoë");
  assert.equal(await pane().root.locator("h3").textContent(), "zoë");
  assert.ok((await chips()).includes("user:zoë"));
  await pane().connect();
  await publish(page, { to: "user:zoë" });
  await pane().row("event", "order.shipped");
});
