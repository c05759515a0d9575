/** What goes wrong in the world, made to happen; each step says what was seen, not what was planned. */

import { about, ask, publishMany } from "./dev.js";
import { make, tell } from "./dom.js";
import * as format from "./format.js";
import { SlowReader } from "./slow-reader.js";

/** Milliseconds after which something that was waited for is said not to have happened. */
const PATIENCE = 20_000;
const MISSED = 3;
/** Events beyond what is retained. */
const BEYOND = 20;
/** More than this cannot be published by a page in a sensible time. */
const MOST_RETAINED = 50_000;
/** Of a large event beside its data. */
const ENVELOPE = 512;
const LARGE = 60_000;
const LARGE_AT_ONCE = 8;
/** Systems take in some megabytes for a reader that does not read; beyond this we give up. */
const MOST_SENT = 96 * 1024 * 1024;

/**
 * Runs one trial and shows its steps.
 * @param {Element} card
 * @param {(steps: Steps) => Promise<void>} trial
 */
export async function run(card, trial) {
  const button = card.querySelector("button");
  const steps = new Steps(card);
  button.disabled = true;
  card.classList.add("running");
  try {
    await trial(steps);
  } catch (error) {
    steps.fail(error.message);
  } finally {
    steps.end();
    card.classList.remove("running");
    // A disabled button has lost the keyboard's focus.
    const idle = document.activeElement === document.body;
    button.disabled = false;
    if (idle) button.focus({ preventScroll: true });
  }
}

class Steps {
  #list;
  #title;
  #current;

  constructor(card) {
    this.card = card;
    this.#list = card.querySelector(".steps");
    this.#title = card.querySelector("h3").textContent;
    this.#list.replaceChildren();
  }

  /** What is being done. */
  begin(text) {
    this.end();
    this.#current = make("li", { class: "step doing" }, text);
    this.#list.append(this.#current);
  }

  /** What came of it. */
  done(text) {
    if (!this.#current) this.begin("");
    this.#current.textContent = text;
    this.end();
    tell(this, `${this.#title}: ${text}`);
  }

  fail(text) {
    this.#current ??= this.#list.appendChild(make("li", {}));
    this.#current.textContent = text;
    this.#current.className = "step failed";
    this.#current = undefined;
    tell(this, `${this.#title} failed: ${text}`);
  }

  end() {
    if (this.#current) this.#current.className = "step";
    this.#current = undefined;
  }
}

/** The line is lost, events are published meanwhile, and it comes back. */
export async function drop(steps, pane, publish) {
  await bringLive(steps, pane);
  const seen = watch(pane);
  await away(steps, pane);
  steps.begin(`Publishing ${MISSED} events into the silence …`);
  for (let number = 1; number <= MISSED; number++) {
    await publish({ to: channel(pane), type: "while.away", data: `{"number":${number}}` });
  }
  steps.done(`Published ${MISSED} events; nobody had them.`);
  await back(steps, pane);
  steps.begin("Waiting for what was missed …");
  await until(() => seen.events.length >= MISSED, "what was missed did not come");
  const order = seen.events.every((event, index) => event.data.number === index + 1);
  steps.done(
    `All ${MISSED} came, ${order ? "in order" : "out of order"}, ${seen.gaps.length ? "after a gap" : "no gap"}, ` +
      `${seen.events.length === MISSED ? "none twice" : `and ${seen.events.length - MISSED} more`}.`,
  );
  seen.end();
}

/** More is published than is retained while somebody is away. */
export async function gap(steps, pane, publish) {
  const retained = about.history_size;
  if (retained > MOST_RETAINED) {
    throw new Error(`HERALD_HISTORY_SIZE is ${retained.toLocaleString("en")}: too much to overflow from a page.`);
  }
  await bringLive(steps, pane);
  const seen = watch(pane);
  await away(steps, pane);
  const number = retained + BEYOND;
  steps.begin(`Publishing ${format.count(number, "event")} …`);
  await publish({ to: channel(pane), type: "flood", data: "null" }, number);
  steps.done(`Published ${format.count(number, "event")}; the log keeps ${retained.toLocaleString("en")}.`);
  await back(steps, pane);
  steps.begin("Waiting for the gap …");
  await until(() => seen.gaps.length > 0, "no gap was told");
  const { from, to } = seen.gaps[0];
  const lost = Number(BigInt(to.split("-")[1]) - BigInt(from.split("-")[1]));
  steps.done(`Told of the gap before anything later: ${format.count(lost, "event")} after ${from} ${lost === 1 ? "is" : "are"} gone.`);
  steps.begin("Waiting for what is retained …");
  const kept = number - lost;
  await until(() => seen.events.length >= kept, `of ${kept} events that are left, some did not come`);
  steps.done(`Then the ${format.count(seen.events.length, "event")} that the log still had.`);
  seen.end();
}

/** Everyone is dismissed, as when a node stops. */
export async function drain(steps, panes, pane, publish) {
  await bringLive(steps, pane);
  const live = panes.filter((one) => one.state === "live");
  const start = performance.now();
  const backs = new Map();
  const left = new Set();
  const ends = live.map((one) =>
    one.watch((kind, state) => {
      if (kind !== "state") return;
      if (state === "live" && left.has(one)) backs.set(one, performance.now() - start);
      else if (state !== "live") left.add(one);
    }),
  );
  const seen = watch(pane);
  steps.begin("Sending everyone away …");
  const { dismissed } = await ask("drain", {});
  steps.done(`${format.count(dismissed, "connection")} told to reconnect, and closed with 1012.`);
  steps.begin("Publishing meanwhile …");
  await publish({ to: channel(pane), type: "during.the.drain", data: "null" });
  steps.done("Published an event meanwhile.");
  steps.begin("Waiting for them to come back …");
  await until(() => backs.size === live.length, "not all came back");
  steps.done(`Back, each at a time of its own: ${[...backs].map(([one, took]) => `${one.user} after ${format.ms(took)}`).join(", ")}.`);
  steps.begin("Looking for the event …");
  await until(() => seen.events.some(({ type }) => type === "during.the.drain"), "the event did not come");
  steps.done(seen.gaps.length ? "The event came, after a gap." : "The event came; nothing was lost.");
  seen.end();
  for (const end of ends) end();
}

/** A reader that does not read, until the server has had enough of it. */
export async function slow(steps, user, bringToken, show) {
  const name = `${user}-slow-${Math.random().toString(36).slice(2, 6)}`;
  const reader = new SlowReader(await bringToken(name));
  try {
    steps.begin("Opening a stream …");
    await reader.open();
    steps.done(`Opened a stream as ${name}, and stopped reading.`);
    const sent = await fill(steps, name, reader, show);
    steps.begin("Reading on …");
    await reader.read();
    const said = reader.close ? `then “${reader.close.reason}”, ${reader.close.code}` : "then the line was cut";
    steps.done(`Read what was on its way: ${format.count(reader.events, "event")}, ${said}.`);
    steps.begin("Resuming with the last event’s id …");
    await reader.open();
    await within(reader.read(() => reader.last >= BigInt(sent)), "the rest did not come");
    const faults = reader.duplicates + reader.disorder + reader.gaps.length;
    steps.done(
      faults
        ? `${reader.events} of ${sent} events; ${reader.gaps.length} gaps, ${reader.duplicates} twice, ${reader.disorder} out of order.`
        : `Resumed: all ${format.count(sent, "event")}, in order, none missing, none twice.`,
    );
  } finally {
    reader.cancel();
  }
}

/** Publishes large events until the server closes the reader's connection; gives back how many. */
async function fill(steps, name, reader, show) {
  const size = Math.min(LARGE, about.max_event_bytes - ENVELOPE);
  const event = `{"to":${JSON.stringify(`user:${name}`)},"type":"large","data":"${"x".repeat(size)}"}`;
  let sent = 0;
  let mine;
  steps.begin("Sending …");
  for (;;) {
    await publishMany(event, LARGE_AT_ONCE);
    sent += LARGE_AT_ONCE;
    const { connections } = await ask("connections", {});
    mine = connections.find(({ connection }) => connection === reader.connection);
    show({ waiting: mine?.waiting ?? 0, sent: sent * size });
    if (!mine || mine.closing) break;
    if (sent * size > MOST_SENT) {
      throw new Error(`This system took in ${format.bytes(sent * size)} for a reader that does not read. Herald was never made to wait.`);
    }
  }
  steps.done(
    `Sent ${format.bytes(sent * size)}. The systems between took most of it; when more than ` +
      `${format.bytes(about.send_queue_bytes)} would have waited in Herald, it closed the stream${mine ? ` with ${mine.closing}` : ""}.`,
  );
  return sent;
}

// Steps that several trials share

function channel(pane) {
  return `user:${pane.user}`;
}

async function bringLive(steps, pane) {
  if (pane.state === "live") return;
  steps.begin(`Connecting ${pane.user} …`);
  if (pane.state === "away") pane.resume();
  else if (!pane.isOpen) pane.connect();
  await until(() => pane.state === "live", `${pane.user} could not be connected`);
  steps.done(`Connected ${pane.user}.`);
}

async function away(steps, pane) {
  steps.begin(`Cutting the line of ${pane.user} …`);
  await pane.leave();
  await until(() => pane.state === "away", "the line was not cut");
  steps.done(`Cut the line of ${pane.user}, without a close.`);
}

async function back(steps, pane) {
  const start = performance.now();
  steps.begin("Coming back …");
  pane.resume();
  await until(() => pane.state === "live", `${pane.user} did not come back`);
  steps.done(`Back after ${format.ms(performance.now() - start)}, from the last position.`);
}

/** Gathers what a pane receives in its own channel. */
function watch(pane) {
  const events = [];
  const gaps = [];
  const end = pane.watch((kind, value) => {
    if (value.channel !== channel(pane)) return;
    if (kind === "event") events.push(value);
    else if (kind === "gap") gaps.push(value);
  });
  return { events, gaps, end };
}

async function until(condition, otherwise) {
  const start = performance.now();
  while (!condition()) {
    if (performance.now() - start > PATIENCE) throw new Error(`After ${PATIENCE / 1000} s ${otherwise}.`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function within(promise, otherwise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`After ${PATIENCE / 1000} s ${otherwise}.`)), PATIENCE);
  });
  await Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
