/** What the page may not do, and what other pages may not do with it. */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { createSign, generateKeyPairSync } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { eventually, openPage, publish, startBrowser, startDev } from "./harness.mjs";

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

test("scripts and styles that are put into the page do nothing", async () => {
  const { page, close } = await openPage(browser, dev);
  const ran = await page.evaluate(async () => {
    document.body.insertAdjacentHTML("beforeend", '<img src="data:," onerror="window.ran = 1"><p id="styled" style="color: rgb(1, 2, 3)">x</p>');
    const script = document.createElement("script");
    script.textContent = "window.ran = 2";
    document.body.append(script);
    await new Promise((done) => setTimeout(done, 200));
    return [window.ran, getComputedStyle(document.getElementById("styled")).color === "rgb(1, 2, 3)"];
  });
  assert.deepEqual(ran, [undefined, false]);
  const sent = await page.evaluate(() => fetch("http://127.0.0.2:9/").then(() => "sent", () => "refused"));
  assert.equal(sent, "refused");
  for (const directive of ["script-src", "style-src", "connect-src", "img-src"]) {
    await eventually(() => page.faults.some((fault) => fault.startsWith(`policy: ${directive}`)), directive);
  }
  await close(/policy/i);
});

test("what is published is shown as text, whatever it holds", async () => {
  const { page, pane, close } = await openPage(browser, dev);
  await pane().connect({ user: "<img src=x onerror=alert(1)>" });
  await publish(page, { to: "all", type: "<b>bold</b>", data: '"<script>window.ran = 1</script>"' });
  await pane().row("event", "<b>bold</b>");
  assert.equal(await page.locator(".pane img, .pane b, .pane script").count(), 0);
  assert.match((await pane().rows("event"))[0], /"<script>window\.ran = 1<\/script>"/);
  await close();
});

test("another website in the same browser gets nothing", async () => {
  const other = createServer((request, response) => {
    response.setHeader("content-type", "text/html");
    response.end("<!doctype html><title>other</title>");
  });
  await new Promise((done) => other.listen(0, "127.0.0.1", done));
  const context = await browser.newContext();
  const page = await context.newPage();
  // Another site for the browser, and another port of the same one.
  for (const host of ["localhost", "127.0.0.1"]) {
    await page.goto(`http://${host}:${other.address().port}/`);
    const got = await page.evaluate(async (url) => {
      const tries = {};
      const attempt = async (name, init, path = "dev/token") => {
        try {
          const response = await fetch(url + path, init);
          tries[name] = response.type === "opaque" ? "opaque" : response.status;
        } catch {
          tries[name] = "failed";
        }
      };
      const body = JSON.stringify({ user: "alice" });
      await attempt("json", { method: "POST", headers: { "content-type": "application/json" }, body });
      await attempt("simple", { method: "POST", body });
      await attempt("no-cors", { method: "POST", mode: "no-cors", body });
      await attempt("drain", { method: "POST", mode: "no-cors", body: "{}" }, "dev/drain");
      await attempt("page", {}, "");
      const frame = document.createElement("iframe");
      frame.src = url;
      document.body.append(frame);
      await new Promise((done) => {
        frame.onload = done;
      });
      let framed = "refused";
      try {
        if (frame.contentDocument?.querySelector("h1")) framed = "framed";
      } catch {
        // Another origin: an error's page, or ours, which cannot be told apart from here.
      }
      return { ...tries, framed };
    }, dev.url);
    assert.equal(got.json, "failed");
    assert.equal(got.simple, "failed");
    assert.equal(got.page, "failed");
    assert.equal(got.framed, "refused");
    assert.ok(!page.frames().some((frame) => frame.url() === dev.url && frame !== page.mainFrame()), "the page is in a frame");
  }
  await context.close();
  other.close();
  // Nobody was sent away.
  assert.ok(!dev.output.includes("dismisses everyone"));
});

test("a name that leads here by another's doing is shown no page", async () => {
  const { chromium } = await import("../../clients/js/node_modules/playwright-core/index.mjs");
  const { port } = new URL(dev.url);
  const rebound = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP evil.example 127.0.0.1"],
  });
  const page = await rebound.newPage();
  const answer = await page.goto(`http://evil.example:${port}/`);
  assert.equal(answer.status(), 403);
  const status = await page.evaluate(() =>
    fetch("/dev/token", { method: "POST", headers: { "content-type": "application/json" }, body: '{"user":"alice"}' }).then((r) => r.status),
  );
  assert.equal(status, 403);
  await rebound.close();
});

test("where Herald makes no tokens and knows no key, one brings both", async () => {
  const folder = await mkdtemp(join(tmpdir(), "herald-keys-"));
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const file = join(folder, "key.pem");
  await writeFile(file, publicKey.export({ type: "spki", format: "pem" }));
  const digest = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // of "secret"
  const strict = await startDev({ JWT_PUBLIC_KEY_FILE: file, API_KEYS: digest, ALLOWED_ORIGINS: "https://app.example.com" });
  const { page, pane, close } = await openPage(browser, strict);
  await page.getByText("makes no tokens").waitFor();
  await page.getByText("only the digests").waitFor();
  await page.getByText("HERALD_ALLOWED_ORIGINS does not name").waitFor();
  await pane().button("Connect").click();
  await pane().root.getByText("Bring a token").waitFor();
  await publish(page, { key: "secret" });
  await page.locator(".status.good", { hasText: "202" }).waitFor();
  // It is refused for its origin, as the notice said, and the pane shows how.
  await pane().root.locator("[name=token]").fill(sign({ sub: "mallory", exp: Math.floor(Date.now() / 1000) + 600 }, privateKey));
  await pane().button("Connect").click();
  await pane().row("note", "3003");
  await pane().is("closed");
  await close();
  await strict.stop();
  await rm(folder, { recursive: true });
});

function sign(claims, key) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${encode({ alg: "ES256", typ: "JWT" })}.${encode(claims)}`;
  return `${text}.${createSign("sha256").update(text).sign({ key, dsaEncoding: "ieee-p1363" }, "base64url")}`;
}

test("the page outlives a Herald that was stopped and started anew", async () => {
  const port = new URL(dev.url).port;
  const { page, pane, close } = await openPage(browser, dev);
  await pane().connect();
  await dev.stop();
  await pane().is("waiting");
  await publish(page);
  await page.locator(".answer").first().getByText("Herald does not answer").waitFor();
  dev = await startDev({ PORT: port });
  await pane().row("note.live", "live as alice");
  await pane().is("live");
  await publish(page); // with the key that the new one made up
  await pane().row("event", "order.shipped");
  // The engine's log is another: what it had at its end cannot be known, so each channel has a gap.
  assert.equal(await pane().number("gaps"), "3");
  await close(/ERR_CONNECTION|401|WebSocket connection/);
});
