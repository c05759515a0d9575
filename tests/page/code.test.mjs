/** The lines to copy work as they are copied, in a plain shell. */

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { copyFile, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { PATIENCE, ROOT, eventually, freePort, openPage, publish, startBrowser, startDev } from "./harness.mjs";

/** A shell without this environment, and a folder without anything. */
const PLAIN = { PATH: "/usr/local/bin:/usr/bin:/bin", HOME: tmpdir() };
const PYTHON = join(ROOT, ".venv/bin/python");
const AWKWARD = '{"text": "it\'s \\"so\\" \\u00e9 – $HOME `x` \\\\ 100%", "n": 12345678901234567890, "t": [true, false, null]}';

let dev;
let browser;
let folder;

before(async () => {
  dev = await startDev();
  browser = await startBrowser();
  folder = await mkdtemp(join(tmpdir(), "herald-page-"));
});

after(async () => {
  await browser.close();
  await dev.stop();
  await rm(folder, { recursive: true });
});

function run(command, args, env = PLAIN) {
  return new Promise((done, failed) => {
    execFile(command, args, { cwd: folder, env, timeout: PATIENCE }, (error, stdout, stderr) =>
      error ? failed(new Error(`${error.message}\n${stderr}`)) : done(stdout),
    );
  });
}

/** Starts a listener; `output()` is what it printed. */
function listen(command, args, env = PLAIN) {
  const child = spawn(command, args, { cwd: folder, env });
  let output = "";
  child.stdout.on("data", (chunk) => (output += chunk));
  child.stderr.on("data", (chunk) => (output += chunk));
  return { output: () => output, stop: () => child.kill("SIGKILL") };
}

/** Chooses a tab, copies, and gives back what is on the clipboard. */
async function copied(page, root, name) {
  await root.getByRole("tab", { name, exact: true }).click();
  await root.getByRole("button", { name: `Copy the ${name} lines` }).click();
  await root.getByRole("button", { name: "Copied" }).waitFor();
  return page.evaluate(() => navigator.clipboard.readText());
}

for (const times of [1, 3]) {
  for (const [name, runs] of [
    ["curl", (text) => run("sh", ["-c", text])],
    ["herald", (text) => run("sh", ["-c", text])],
    ["Python", (text) => run(PYTHON, ["-c", text], { ...PLAIN, PYTHONPATH: join(ROOT, "clients/python") })],
  ]) {
    test(`${name} publishes what the form says, ${times} times`, async () => {
      const { page, pane, close } = await openPage(browser, dev);
      const user = `it's ${name.toLowerCase()} ${times}`;
      await pane().connect({ user });
      const code = page.locator("#publish-code");
      await page.locator(".more summary").click();
      for (const [field, value] of Object.entries({ to: `user:${user}`, type: "odd 'type'", data: AWKWARD, ttl: "60", count: times })) {
        await page.locator(`#${field}`).fill(String(value));
      }
      const text = await copied(page, code, name);
      await runs(text);
      await eventually(async () => (await pane().rows("event")).length >= times, "the events came");
      // What the form itself publishes is the same, byte for byte.
      await publish(page);
      await eventually(async () => (await pane().rows("event")).length >= 2 * times, "the form's came");
      const rows = (await pane().rows("event")).map((row) => row.replace(/(<1|\d+) ms/, "").replace(/\d+-\d+$/, ""));
      assert.equal(rows.length, 2 * times);
      assert.equal(new Set(rows).size, 1, rows.join("\n"));
      await close();
    });
  }
}

/** Puts the client where `import` finds it. */
async function installClient() {
  const module = join(folder, "node_modules/herald-client");
  await mkdir(module, { recursive: true });
  await copyFile(join(ROOT, "service/edge/playground/herald-client.js"), join(module, "index.js"));
  await writeFile(join(module, "package.json"), '{"type":"module","main":"index.js"}');
}

test("the page of the publish form's JavaScript asks a backend for a token as the examples answer it", async () => {
  const { page, pane, close } = await openPage(browser, dev);
  await installClient();
  await pane().connect({ user: "reader", topics: "art" });
  await pane().root.getByText("Listen in code").click();
  const listening = await copied(page, pane().root.locator("[data-code]"), "JavaScript");
  const [, token] = /token: "([^"]+)"/.exec(listening);
  await page.locator(".more summary").click();
  await page.locator("#to").fill("topic:art");
  await page.locator("#type").fill("for.pages");
  const text = await copied(page, page.locator("#publish-code"), "JavaScript");
  // The backend fails at first, and then has a token.
  const backend = `
    const answers = [new Response('{"detail":"No."}', { status: 500 }), Response.json({ token: ${JSON.stringify(token)} })];
    const real = fetch;
    globalThis.fetch = async (url, how) => (url === "/herald-token" ? answers.shift() : real(url, how));`;
  const { output, stop } = listen(process.execPath, ["--input-type=module", "-e", `${backend}\n${text}`]);
  try {
    await eventually(async () => {
      await publish(page, { to: "topic:art", type: "for.pages", data: '"heard"' });
      await new Promise((done) => setTimeout(done, 200));
      return /^heard$/m.test(output());
    }, `it heard: ${output()}`);
    assert.match(output(), /token\(\) failed: \/herald-token: 500/);
  } finally {
    stop();
  }
  await close();
});

test("what listens in code hears what its pane hears", async () => {
  const { page, pane, close } = await openPage(browser, dev);
  await installClient();
  await pane().connect({ user: "listener", topics: "news, art" });
  await pane().root.getByText("Listen in code").click();
  const code = pane().root.locator("[data-code]");
  const scripts = {
    curl: (text) => listen("sh", ["-c", `exec ${text}`]),
    herald: (text) => listen("sh", ["-c", `exec ${text}`]),
    Python: (text) => listen(PYTHON, ["-u", "-c", text], { ...PLAIN, PYTHONPATH: join(ROOT, "clients/python") }),
    JavaScript: (text) => listen(process.execPath, ["--input-type=module", "-e", text]),
  };
  const listeners = [];
  for (const [name, start] of Object.entries(scripts)) {
    listeners.push({ name, ...start(await copied(page, code, name)) });
  }
  try {
    for (const { name, output } of listeners) {
      // Listeners hear what is published once they are there.
      await eventually(async () => {
        await publish(page, { to: "topic:art", type: "for.listeners" });
        await new Promise((done) => setTimeout(done, 200));
        return output().includes("for.listeners");
      }, `${name} heard it: ${output()}`);
    }
  } finally {
    for (const { stop } of listeners) stop();
  }
  await close();
});

test("where the clipboard is denied the old way is taken, and where that fails, the text is selected", async () => {
  for (const old of [true, false]) {
    const { page, close } = await openPage(browser, dev, { clipboard: false });
    await page.evaluate((old) => {
      Object.defineProperty(navigator, "clipboard", { value: { writeText: () => Promise.reject(new Error("denied")) } });
      if (!old) document.execCommand = () => false;
    }, old);
    const code = page.locator("#publish-code");
    await code.getByRole("button", { name: "Copy the curl lines" }).click();
    await code.getByRole("button", { name: old ? "Copied" : "Press Ctrl C" }).waitFor();
    assert.equal(await page.evaluate(() => String(getSelection())), await code.locator("code").textContent());
    await code.getByRole("button", { name: "Copy the curl lines" }).waitFor(); // it is offered again
    await close();
  }
});

test("with a port for the API the page publishes, and its curl lines go there", async () => {
  const apart = await startDev({ API_PORT: await freePort() });
  const { page, pane, close } = await openPage(browser, apart);
  await page.getByText("The API has a port of its own").waitFor();
  await pane().connect();
  await publish(page);
  await pane().row("event", "order.shipped");
  const text = await copied(page, page.locator("#publish-code"), "curl");
  assert.ok(!text.includes(new URL(apart.url).host));
  await run("sh", ["-c", text]);
  await eventually(async () => (await pane().rows("event")).length === 2, "the line's event came");
  await close();
  await apart.stop();
});
