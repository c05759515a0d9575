/** One pane: a user's page. Its form, its state, its log, its numbers. */

import { about } from "./dev.js";
import { byId, complain, makeSvg, part, tell } from "./dom.js";
import * as format from "./format.js";
import { Link } from "./link.js";
import { Log, eventRow, gapRow, noteRow } from "./log.js";
import { CodeTabs } from "./code.js";
import { listening } from "./snippets.js";

const HINT = "Connect, then publish to this user.";
const LIVE_HINT = "Live. Nothing was published yet.";
/** Latencies that the median is of. */
const REMEMBERED = 500;
/** Bars of the strip. */
const BARS = 48;
/** Milliseconds: of the strip's height, unless there were longer ones. */
const LEAST_SCALE = 20;
/** Of a row's data. */
const MOST_DATA = 400;
/** Browsers open six connections to one host over HTTP/1.1, and this page needs some itself. */
const MOST_STREAMS = 4;
const streams = new Set();

const WHY = {
  network: "the network",
  restart: "a restart",
  busy: "the server is busy",
  unauthorized: "a new token",
  slow: "read too slowly",
  token: "a token",
  done: "closed here",
  logged_out: "logged out",
  refused: "refused",
};

export class Pane {
  element;
  /** What is told to the page: `changed(pane)`, `arrived(pane, event, latency)`, `removed(pane)`. */
  #page;
  #link;
  #log;
  #code;
  #parts = {};
  #settings;
  #state = { name: "idle" };
  #liveSince = 0;
  #countdown = 0;
  #events = 0;
  #gaps = 0;
  #latencies = [];
  #watchers = new Set();
  #planned = false;

  constructor(page, { user, topics, transport, tincture }) {
    this.#page = page;
    const element = byId("pane-template").content.firstElementChild.cloneNode(true);
    this.element = element;
    element.classList.add(tincture);
    for (const name of PARTS) this.#parts[name] = part(element, name);
    this.#log = new Log(element);
    this.#log.hint = HINT;
    const form = this.#parts.setup;
    form.elements.user.value = user;
    form.elements.topics.value = topics;
    form.elements.transport.value = transport;
    part(form, "minted").hidden = part(form, "minted-life").hidden = !about.mint;
    part(form, "brought").hidden = about.mint;
    this.#code = new CodeTabs(this.#parts.code, "Listen in code");
    this.#listen();
    this.#rename();
    this.#show();
  }

  get user() {
    return this.isOpen ? this.#settings.user : this.#parts.setup.elements.user.value.trim();
  }

  /** Channels that this pane hears, as far as they are names. */
  get channels() {
    const topics = this.isOpen ? this.#settings.topics : split(this.#parts.setup.elements.topics.value);
    return [`user:${this.user}`, ...topics.filter((topic) => !topic.endsWith("*")).map((topic) => `topic:${topic}`)];
  }

  get state() {
    return this.#state.name;
  }

  get isOpen() {
    return this.state !== "idle" && this.state !== "closed";
  }

  /** Calls `then(kind, value)` for each `state`, `event` and `gap`; gives back what ends that. */
  watch(then) {
    this.#watchers.add(then);
    return () => this.#watchers.delete(then);
  }

  connect() {
    const settings = this.#read();
    if (!settings) return;
    if (settings.transport === "sse") {
      if (streams.size >= MOST_STREAMS && !streams.has(this)) {
        this.#complain(`Browsers open six HTTP/1.1 connections to a host, and ${MOST_STREAMS} panes hold one each. Use a WebSocket here.`);
        return;
      }
      streams.add(this);
    }
    this.#settings = settings;
    this.#events = this.#gaps = 0;
    this.#latencies = [];
    this.#log.clear();
    this.#log.hint = LIVE_HINT;
    this.#link = new Link(settings, {
      state: (state) => this.#changed(state),
      event: (event) => this.#event(event),
      gap: (gap) => this.#gap(gap),
      error: (error) => this.#log.add(noteRow(error.message, "bad")),
      note: (text) => this.#log.add(noteRow(text)),
      token: () => this.#code.show(listening(settings, this.#link.token)),
    });
    this.#changed({ name: "connecting" });
  }

  cut() {
    return this.#link.cut();
  }

  leave() {
    return this.#link.leave();
  }

  resume() {
    this.#link.resume();
    this.#changed({ name: "connecting" });
  }

  close() {
    this.#link.close();
    this.#changed({ name: "closed", why: "done" });
  }

  remove() {
    if (this.isOpen) this.close();
    this.element.remove();
    this.#page.removed(this);
  }

  // What the user does

  #listen() {
    const { setup, cut, drop, resume, close, remove } = this.#parts;
    setup.addEventListener("submit", (event) => {
      event.preventDefault();
      this.connect();
      if (this.isOpen) this.#parts.log.focus({ preventScroll: true });
    });
    setup.elements.user.addEventListener("input", () => this.#rename());
    setup.elements.topics.addEventListener("input", () => this.#page.changed(this));
    cut.addEventListener("click", () => this.#try(() => this.cut()));
    drop.addEventListener("click", () => this.#try(() => this.leave()));
    resume.addEventListener("click", () => {
      this.resume();
      this.#parts.drop.focus();
    });
    close.addEventListener("click", () => {
      this.close();
      setup.elements.user.focus();
    });
    remove.addEventListener("click", () => this.remove());
  }

  async #try(deed) {
    try {
      await deed();
    } catch (error) {
      this.#log.add(noteRow(error.message, "bad"));
    }
  }

  #rename() {
    this.#parts.name.textContent = this.user || "nobody";
    this.#parts["remove-label"].textContent = `Remove the pane of ${this.user || "nobody"}`;
    this.#parts.log.setAttribute("aria-label", `What ${this.user || "nobody"} received`);
    this.#page.changed(this);
  }

  /** The form's settings; undefined where something is missing, which is said. */
  #read() {
    const { user, topics, transport, life, token } = this.#parts.setup.elements;
    this.#complain("");
    const settings = { transport: transport.value, topics: [], life: parseInt(life.value, 10), renews: !life.value.endsWith("expire") };
    if (!about.mint) {
      const claims = readClaims(token.value.trim());
      if (!claims) return this.#complain("Bring a token: three parts with dots between.", token);
      return { ...settings, user: claims.sub ?? "somebody", token: token.value.trim(), topics: claims.topics ?? [] };
    }
    const names = split(topics.value);
    if (!user.value.trim()) return this.#complain("A user has a name.", user);
    const bad = names.find((name) => !/^[A-Za-z0-9._:@/-]{0,200}\*?$/.test(name));
    if (bad) return this.#complain(`“${bad}” is no topic: letters, digits and . _ : @ / - only.`, topics);
    return { ...settings, user: user.value.trim(), topics: names };
  }

  #complain(text, input = this.#parts.setup.elements.transport) {
    for (const element of this.#parts.setup.elements) element.removeAttribute("aria-invalid");
    complain(input, this.#parts["setup-says"], text);
    if (text) input.focus();
    return undefined;
  }

  // What the client tells

  #changed(state) {
    const before = this.#state.name;
    this.#state = state;
    if (state.name === "live") {
      this.#liveSince = Date.now();
      const how = state.transport === "sse" ? "server-sent events" : "a WebSocket";
      this.#log.add(noteRow(`live as ${state.user} over ${how}, connection ${this.#link.connection}`, "live"));
    } else if (state.name === "away") {
      this.#log.add(noteRow("away: nobody listens here until Resume"));
    } else if (state.name === "closed") {
      streams.delete(this);
      if (before !== "idle" && before !== "closed") this.#log.add(noteRow(closedText(state)));
    }
    if (state.name !== before) tell(this, `${this.#settings.user} is ${state.name}.`);
    this.#show();
    this.#rename();
    this.#notify("state", state.name);
  }

  #event(event) {
    const arrived = Date.now();
    const published = Date.parse(event.time);
    const latency = arrived - published;
    // What was published before this connection was live had to wait for it.
    const late = published < this.#liveSince - 1;
    this.#events++;
    if (!late && latency >= 0) {
      this.#latencies.push(latency);
      if (this.#latencies.length > REMEMBERED) this.#latencies.shift();
    }
    this.#log.add(() =>
      eventRow({
        type: event.type,
        channel: event.channel,
        position: event.id,
        data: format.short(JSON.stringify(event.data), MOST_DATA),
        latency: latency < 0 ? "clocks differ" : format.ms(latency),
        late,
      }),
    );
    this.#count();
    this.#page.arrived(this, event, latency, late);
    this.#notify("event", event);
  }

  #gap(gap) {
    this.#gaps++;
    this.#log.addAndHold(gapRow(gap));
    tell(`${this.user} gap`, `${this.user} was told of a gap in ${gap.channel}.`);
    this.#count();
    this.#notify("gap", gap);
  }

  #notify(kind, value) {
    for (const watcher of [...this.#watchers]) watcher(kind, value);
  }

  // What is shown

  #show() {
    const { setup, bar, numbers, who, cut, drop, resume, state, pill } = this.#parts;
    const open = this.isOpen;
    const live = this.state === "live";
    const away = this.state === "away";
    setup.hidden = open;
    bar.hidden = !open;
    numbers.hidden = !this.#settings;
    this.#parts["code-frame"].hidden = !this.#settings;
    if (this.#settings) {
      const { topics, transport } = this.#settings;
      who.textContent = [transport === "sse" ? "SSE" : "WebSocket", topics.length ? `topics ${topics.join(", ")}` : "no topics"].join(" · ");
    }
    cut.disabled = !live;
    drop.disabled = !live;
    drop.hidden = away;
    resume.hidden = !away;
    pill.className = `pill ${this.state}`;
    state.textContent = this.#stateText();
    clearInterval(this.#countdown);
    if (this.state === "waiting") {
      this.#countdown = setInterval(() => {
        state.textContent = this.#stateText();
      }, 100);
    }
  }

  #stateText() {
    const { name, until, why, code } = this.#state;
    if (name === "waiting") {
      const left = Math.max(0, until - Date.now());
      return `waiting ${(left / 1000).toFixed(1)} s · ${WHY[why] ?? why}`;
    }
    if (name === "closed") return `closed · ${code ?? WHY[why] ?? why}`;
    return name === "idle" ? "not connected" : name;
  }

  #count() {
    if (this.#planned) return;
    this.#planned = true;
    requestAnimationFrame(() => {
      this.#planned = false;
      const { events, median, gaps, duplicates } = this.#parts;
      const middle = format.median(this.#latencies);
      events.textContent = this.#events.toLocaleString("en");
      median.textContent = middle === undefined ? "–" : format.ms(middle);
      gaps.textContent = String(this.#gaps);
      duplicates.textContent = String(this.#link?.duplicates ?? 0);
      this.#drawStrip(middle);
      tell(`${this.user} events`, `${this.user} has ${format.count(this.#events, "event")}${middle === undefined ? "" : `, median ${format.ms(middle)}`}.`);
    });
  }

  /** One bar an event; the slowest of them is as high as the strip. */
  #drawStrip(middle) {
    const { strip } = this.#parts;
    const last = this.#latencies.slice(-BARS);
    const most = Math.max(LEAST_SCALE, ...last);
    strip.replaceChildren(
      makeSvg("rect", { class: "ground", x: 0, y: 23.5, width: 2 * BARS, height: 0.5 }),
      ...last.map((latency, index) => {
        const height = 1 + (latency / most) * 23;
        return makeSvg("rect", { x: (BARS - last.length + index) * 2, y: 24 - height, width: 1.2, height });
      }),
    );
    strip.setAttribute("aria-label", middle === undefined ? "No latency yet" : `Latency of the last ${last.length} events; median ${format.ms(middle)}`);
  }
}

const PARTS = [
  "name", "pill", "state", "remove", "remove-label", "setup", "setup-says", "bar", "who", "cut", "drop", "resume",
  "close", "numbers", "events", "median", "gaps", "duplicates", "strip", "log", "code", "code-frame",
];

function split(text) {
  return text.split(/[\s,]+/).filter(Boolean);
}

function closedText({ why, code, reason }) {
  return code ? `closed for good: ${code} ${reason ?? ""}`.trim() : `closed: ${WHY[why] ?? why}`;
}

function readClaims(token) {
  try {
    const body = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(body), (c) => c.charCodeAt(0))));
  } catch {
    return undefined;
  }
}
