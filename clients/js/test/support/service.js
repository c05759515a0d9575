// The real service: an engine and Heralds as processes.

import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { until } from "./waiting.js";

const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));
const PYTHON = process.env.HERALD_PYTHON ?? `${ROOT}.venv/bin/python`;
const SECRET = "a secret of at least thirty-two bytes, for tests";
const KEY = "an-api-key-for-tests";

const ENGINE = `
import sys
from service.broker.embedded import EmbeddedEngine
engine = EmbeddedEngine()
print(engine.url, flush=True)
for line in sys.stdin:
    engine.kill()
    engine.restart()
    print("restarted", flush=True)
engine.stop()
`;

/** Children that are ended with this process, however it ends by itself. */
const children = new Set();
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")));

function start(args, env, stdio) {
  const child = spawn(PYTHON, args, { cwd: ROOT, env, stdio });
  children.add(child);
  child.on("exit", () => children.delete(child));
  return child;
}

function environment(settings) {
  const clean = Object.entries(process.env).filter(([name]) => !name.startsWith("HERALD_"));
  return { ...Object.fromEntries(clean), ...settings };
}

/** An engine that outlives the Heralds, and ends with this process. */
export class Engine {
  static async start() {
    const engine = new Engine();
    engine.process = start(["-c", ENGINE], environment({}), ["pipe", "pipe", "inherit"]);
    const [line] = await once(engine.process.stdout, "data");
    engine.url = String(line).trim();
    return engine;
  }

  /** Kills it and starts it again: everything that it had is lost. */
  async restart() {
    this.process.stdin.write("restart\n");
    await once(this.process.stdout, "data");
  }

  async stop() {
    this.process.stdin.end();
    if (this.process.exitCode === null) await once(this.process, "exit");
  }
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** A user token; claims that are undefined are left out. */
export function mint(user, { ttl = 3600, secret = SECRET, ...claims } = {}) {
  const now = Date.now() / 1000;
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const body = encode({ sub: user, iat: Math.floor(now), exp: now + ttl, ...claims });
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${body}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

let names = 0;
/** A name that no other test uses. */
export const newName = () => `n${process.pid}-${++names}`;

/** One `herald serve`. */
export class Herald {
  static async start(engine, settings = {}) {
    const herald = new Herald();
    herald.port = await freePort();
    herald.settings = {
      HERALD_PORT: String(herald.port),
      HERALD_REDIS_URL: engine.url,
      HERALD_JWT_SECRET: SECRET,
      HERALD_API_KEYS: KEY,
      HERALD_HISTORY_SIZE: "10000",
      HERALD_LOG_LEVEL: "warning",
      HERALD_DRAIN_SECONDS: "2",
      ...settings,
    };
    await herald.restart();
    return herald;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Starts it on the same port as before, and waits until it is ready. */
  async restart() {
    this.log = "";
    this.process = start(["-m", "service", "serve"], environment(this.settings), ["ignore", "pipe", "pipe"]);
    for (const output of [this.process.stdout, this.process.stderr]) {
      output.on("data", (piece) => (this.log += piece));
    }
    await until(() => {
      if (this.process.exitCode !== null) throw new Error(`herald ended: ${this.log}`);
      return fetch(`${this.url}/healthz/ready`).then((answer) => answer.ok, () => false);
    }, "herald is ready");
  }

  /** Ends it; with SIGTERM it drains. */
  async stop(signal = "SIGTERM") {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    this.process.kill(signal);
    await once(this.process, "exit");
  }

  async publish(to, data, fields = {}) {
    const answer = await fetch(`${this.url}/v1/events`, {
      method: "POST",
      headers: { authorization: `Bearer ${KEY}`, "content-type": "application/json" },
      body: JSON.stringify({ to, type: "test", data, ...fields }),
    });
    if (answer.status !== 202) throw new Error(`${answer.status}: ${await answer.text()}`);
    return answer.json();
  }

  /**
   * Publishes the numbers from `from` to `to` (exclusive) in order, each until it is accepted: once,
   * since `id` says so.
   */
  async publishAll(channel, from, to, fields = {}) {
    for (let number = from; number < to; number++) {
      const id = `${JSON.stringify(channel)}-${number}`;
      await until(() => this.publish(channel, number, { id, ...fields }).catch(() => undefined), `publish ${number}`);
    }
  }

  /** A sample of /metrics; labels as they are written. */
  async metric(name) {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    const line = text.split("\n").find((each) => each.startsWith(`${name} `) || each.startsWith(`${name}{`));
    return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ") + 1));
  }
}

/** All samples of a metric, added up. */
export async function total(herald, name) {
  const text = await (await fetch(`${herald.url}/metrics`)).text();
  return text
    .split("\n")
    .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}
