/** A `herald dev` and a browser with its page. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const { chromium } = createRequire(`${ROOT}/clients/js/package.json`)("playwright-core");
const HERALD = resolve(ROOT, process.env.HERALD ?? ".venv/bin/herald");
const CHROMIUM = process.env.CHROMIUM || "/usr/bin/chromium";
/** Milliseconds; the machine may be busy. */
export const PATIENCE = 30_000;
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** Starts `herald dev`; settings are named as its environment, without the prefix. */
export async function startDev(settings = {}) {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HERALD")));
  for (const [name, value] of Object.entries({ PORT: await freePort(), ...settings })) env[`HERALD_${name}`] = String(value);
  const child = spawn(HERALD, ["dev"], { env, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  const ready = new Promise((done, failed) => {
    const read = (chunk) => {
      output += chunk;
      if (output.includes("Stop with Ctrl-C")) done();
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("exit", (code) => failed(new Error(`herald dev ended with ${code}: ${output}`)));
  });
  const ended = new Promise((done) => child.on("exit", done));
  await ready;
  return {
    output,
    /** As it is printed for people to open. */
    url: /on a page:\n {2}(\S+)/.exec(output)[1],
    key: /HERALD_API_KEYS=(\S+)/.exec(output)?.[1],
    async stop() {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

export function startBrowser() {
  return chromium.launch({ executablePath: CHROMIUM, headless: true, args: FLAGS });
}

/**
 * Opens the page. `page.faults` gathers what must never be: errors in the console, requests to other
 * hosts, violations of its security policy; `close` checks that there are none but `expected` ones.
 */
export async function openPage(browser, dev, { clipboard = true, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1400, height: 950 }, ...options });
  if (clipboard) await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const faults = [];
  page.faults = faults;
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(String(error)));
  const { host } = new URL(dev.url);
  const check = (url) => new URL(url).host !== host && faults.push(`a request to ${url}`);
  page.on("request", (request) => check(request.url()));
  page.on("websocket", (socket) => check(socket.url()));
  await page.goto(dev.url);
  await page.locator("html.ready").waitFor();
  return {
    page,
    pane: (number = 0) => new Pane(page, number),
    async close(expected = /^$/) {
      await context.close();
      assert.deepEqual(faults.filter((fault) => !expected.test(fault)), []);
    },
  };
}

/** A pane, as somebody uses it. */
export class Pane {
  constructor(page, number) {
    this.page = page;
    this.root = page.locator(".pane").nth(number);
  }

  button(name) {
    return this.root.getByRole("button", { name, exact: true });
  }

  async connect(settings = {}) {
    for (const [name, value] of Object.entries(settings)) {
      const field = this.root.locator(`[name=${name}]`);
      if (["transport", "life"].includes(name)) await field.selectOption(value);
      else await field.fill(value);
    }
    await this.button("Connect").click();
    await this.is("live");
  }

  is(state) {
    return this.root.locator(`.pill.${state}`).waitFor();
  }

  async rows(kind) {
    return this.root.locator(`.row.${kind}`).allTextContents();
  }

  /** Waits for a row of this kind with this text. */
  row(kind, text) {
    return this.root.locator(`.row.${kind}`, { hasText: text }).last().waitFor();
  }

  async number(name) {
    return this.root.locator(`[data-${name}]`).textContent();
  }
}

export async function publish(page, fields = {}) {
  for (const [name, value] of Object.entries(fields)) await page.locator(`#${name}`).fill(String(value));
  await page.locator("#send").click();
}

/** Runs a trial to its end; gives back its steps. Fails where one of them failed. */
export async function runTrial(page, name) {
  const card = page.locator(`[data-trial=${name}]`);
  await card.getByRole("button").click();
  await card.locator(".step").first().waitFor();
  await page.waitForFunction((name) => !document.querySelector(`[data-trial=${name}]`).classList.contains("running"), name, {
    timeout: 2 * PATIENCE,
  });
  assert.deepEqual(await card.locator(".step.failed").allTextContents(), []);
  return card.locator(".step").allTextContents();
}

export async function eventually(condition, what) {
  const deadline = Date.now() + PATIENCE;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `${what} did not come true`);
    await new Promise((done) => setTimeout(done, 30));
  }
}
