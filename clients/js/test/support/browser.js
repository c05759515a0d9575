// A real browser, and a page that is connected.

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { mint } from "./service.js";
import { PATIENCE, until } from "./waiting.js";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const ARGUMENTS =
  "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";
const DIST = new URL("../../dist/", import.meta.url);
const BUNDLE = new URL("../../../../service/edge/playground/herald-client.js", import.meta.url);

const PAGE = `<!doctype html>
<link rel="icon" href="data:,">
<title>test</title>
<script type="module">
  const asked = new URLSearchParams(location.search);
  const { connect } = await import(asked.get("module"));
  const told = (window.told = { events: [], gaps: [], errors: [], states: [], shows: 0 });
  window.start = (url, user, options = {}) => {
    const herald = (window.herald = connect(url, { token: () => window.token(user), ...options }));
    herald.on("*", ({ data }) => {
      told.events.push(data);
      sessionStorage.heard = (sessionStorage.heard ?? "") + data + " "; // of all pages of this tab
    });
    herald.onGap((gap) => void told.gaps.push(gap));
    herald.onError((error) => void told.errors.push(String(error)));
    herald.onState((state) => void told.states.push(state));
  };
  addEventListener("pageshow", ({ persisted }) => persisted && told.shows++);
  window.start(...JSON.parse(asked.get("start")));
  window.isLoaded = true;
</script>`;

/** Chromium, with a profile of its own, and a web server for the page. */
export class Browser {
  static async start() {
    if (!existsSync(CHROMIUM)) throw new Error(`there is no ${CHROMIUM}: install it (Debian: apt-get install chromium)`);
    const browser = new Browser();
    browser.server = createServer((request, response) => browser.#serve(request, response)).listen(0, "127.0.0.1");
    await once(browser.server, "listening");
    browser.origin = `http://127.0.0.1:${browser.server.address().port}`;
    browser.profile = mkdtempSync(join(tmpdir(), "herald-chromium-"));
    browser.context = await chromium.launchPersistentContext(browser.profile, {
      executablePath: CHROMIUM,
      args: ARGUMENTS.split(" "),
      ignoreDefaultArgs: ["--disable-back-forward-cache"],
      timeout: PATIENCE,
    });
    browser.context.setDefaultTimeout(PATIENCE);
    await browser.context.exposeFunction("token", (user) => mint(user));
    return browser;
  }

  #serve(request, response) {
    const { pathname } = new URL(request.url, "http://x");
    const name = /^\/dist\/([\w-]+\.js)$/.exec(pathname)?.[1];
    const file = pathname === "/bundle.js" ? BUNDLE : name && new URL(name, DIST);
    response.setHeader("content-type", file ? "text/javascript" : "text/html");
    response.end(file ? readFileSync(file) : pathname === "/" ? PAGE : "<title>elsewhere</title>");
  }

  /** Opens a tab that is connected to `url` as `user`, with this module of the client. */
  async open(url, user, options = {}, module = "/dist/index.js") {
    const page = await this.context.newPage();
    const complaints = [];
    page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(String(error)));
    const tab = new Tab(this, page, complaints);
    const search = new URLSearchParams({ module, start: JSON.stringify([url, user, options]) });
    await tab.go(`${this.origin}/?${search}`);
    return tab;
  }

  async stop() {
    await this.context.close();
    this.server.closeAllConnections();
    this.server.close();
    rmSync(this.profile, { recursive: true, force: true });
  }
}

/** The browser's own word on a network that is not there; no script can keep it from saying so. */
const NETWORK = /^WebSocket connection to .* failed|^Failed to load resource|net::ERR_/;

class Tab {
  constructor(browser, page, complaints) {
    Object.assign(this, { browser, page, complaints });
  }

  async go(url) {
    await this.page.goto(url);
    await this.loaded();
  }

  async loaded() {
    await this.page.waitForFunction(() => window.isLoaded);
  }

  told() {
    return this.page.evaluate(() => window.told);
  }

  /** What all pages of this tab were told, one after the other. */
  async heard() {
    const text = await this.page.evaluate(() => sessionStorage.heard ?? "");
    return text.split(" ").filter(Boolean).map(Number);
  }

  state() {
    return this.page.evaluate(() => window.herald.state);
  }

  async live() {
    await until(async () => (await this.state()).name === "live", "the page is live");
    return this.state();
  }

  async has(count) {
    await until(async () => (await this.told()).events.length >= count, `${count} events`);
  }

  /** It was told the numbers from `from` to `to` (exclusive), each once, in order, and no gap. */
  async assertExact(from, to) {
    const { events } = await this.told();
    assert.deepEqual(events, Array.from({ length: to - from }, (_, number) => from + number));
    await this.assertNoGap();
  }

  async assertNoGap() {
    const { gaps, errors } = await this.told();
    assert.deepEqual(gaps, []);
    assert.deepEqual(errors, []);
  }

  /** Nothing is on its console; with `network`: but what the browser says of that. */
  assertQuiet({ network = false } = {}) {
    assert.deepEqual(this.complaints.filter((text) => !network || !NETWORK.test(text)), []);
  }
}
