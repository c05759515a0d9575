/** The form that publishes, what was answered, and whom it reached. */

import { CodeTabs } from "./code.js";
import { about, learn, publish, publishMany } from "./dev.js";
import { byId, complain, make, tell } from "./dom.js";
import * as format from "./format.js";
import { publishing } from "./snippets.js";

/** Answers that are shown. */
const MOST_ANSWERS = 30;
const MOST_TIMES = 10_000;
/** Arrivals that are remembered: an event may reach a pane before its publisher has the answer. */
const MOST_ARRIVALS = 20_000;

export class PublishForm {
  #form = byId("form");
  #code = new CodeTabs(byId("publish-code"), "Publish in code");
  #answers = byId("answers");
  /** Channel and position → the pane's user and the latency, of what arrived unannounced. */
  #early = new Map();
  /** Channel and position → the answer that names it. */
  #expected = new Map();

  constructor() {
    byId("key-field").hidden = about.key !== null;
    if (/Mac|iPhone|iPad/.test(navigator.platform)) byId("send-key").textContent = "⌘ ↵";
    this.#form.addEventListener("input", () => this.#check());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#send();
    });
    this.#form.elements.data.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
    byId("chips").addEventListener("click", ({ target }) => {
      const chip = target.closest("button");
      if (!chip) return;
      this.#form.elements.to.value = chip.textContent;
      this.#check();
      this.#form.elements.to.focus();
    });
    this.#check();
  }

  /** The channels of the open panes, to choose from. */
  suggest(channels) {
    const chosen = this.#form.elements.to.value.trim();
    byId("channels").replaceChildren(...channels.map((channel) => make("option", { value: channel })));
    byId("chips").replaceChildren(
      ...channels.map((channel) =>
        make("button", { type: "button", class: "chip", "aria-pressed": String(channel === chosen) }, channel),
      ),
    );
  }

  /** A pane received an event. */
  arrived(pane, event, latency, late) {
    const place = `${event.channel} ${event.id}`;
    const arrival = { pane, latency, late };
    const answer = this.#expected.get(place);
    if (answer) {
      answer.reached(arrival);
      return;
    }
    if (this.#early.size >= MOST_ARRIVALS) this.#early.delete(this.#early.keys().next().value);
    const before = this.#early.get(place);
    if (before) before.push(arrival);
    else this.#early.set(place, [arrival]);
  }

  /** Publishes; the answer is shown. For the trials, too. */
  async publish(event, times = 1) {
    const answer = new Answer(event, times);
    this.#answers.prepend(answer.element);
    byId("no-answers").hidden = true;
    this.#answers.hidden = false;
    while (this.#answers.childElementCount > MOST_ANSWERS) this.#answers.lastElementChild.remove();
    try {
      const { status, results, took } = await this.#store(event, times);
      answer.stored(status, results, took);
      this.#expect(answer, results);
    } catch (error) {
      answer.refused(error);
      throw error;
    }
  }

  async #store(event, times, again = true) {
    const body = `{${fieldsOf(event).join(",")}}`;
    const key = about.key ?? this.#form.elements.key.value;
    try {
      if (times > 1) return await publishMany(body, times, key);
      const { status, answer, took } = await publish("/v1/events", body, key);
      return { status, results: [answer], took };
    } catch (error) {
      if (error.status !== 401 || about.key === null || !again) throw error;
      // Herald was started anew, and has made up another key.
      await learn();
      this.#check();
      return this.#store(event, times, false);
    }
  }

  #expect(answer, results) {
    for (const { positions, duplicate } of results) {
      if (duplicate) continue;
      for (const [channel, position] of Object.entries(positions)) {
        const place = `${channel} ${position}`;
        for (const arrival of this.#early.get(place) ?? []) answer.reached(arrival);
        this.#early.delete(place);
        if (this.#expected.size >= MOST_ARRIVALS) this.#expected.delete(this.#expected.keys().next().value);
        this.#expected.set(place, answer);
      }
    }
  }

  async #send() {
    const event = this.#check();
    if (!event) {
      this.#form.querySelector("[aria-invalid]")?.focus();
      return;
    }
    try {
      await this.publish(event, event.times);
    } catch {
      // The answer says it.
    }
  }

  /** Reads the form and says what is wrong; undefined where something is. */
  #check() {
    const { to, type, data, id, ttl, count, key } = this.#form.elements;
    const event = {
      to: to.value.trim(),
      type: type.value,
      data: oneLine(data.value),
      id: id.value.trim(),
      ttl: ttl.value.trim(),
      times: Math.min(MOST_TIMES, Math.max(1, Math.trunc(Number(count.value)) || 1)),
    };
    const wrong = [
      say(to, byId("to-says"), wrongChannel(event.to)),
      say(type, byId("type-says"), event.type ? "" : "An event has a type."),
      say(data, byId("data-says"), wrongJson(data.value)),
      say(ttl, byId("ttl-says"), event.ttl === "" || Number(event.ttl) > 0 ? "" : "A number of seconds, more than 0."),
    ];
    for (const chip of byId("chips").children) {
      chip.setAttribute("aria-pressed", String(chip.textContent === event.to));
    }
    if (wrong.some(Boolean)) return undefined;
    const body = `{${fieldsOf(event).join(",")}}`;
    this.#code.show(publishing({ ...event, body, key: about.key ?? key.value }));
    return event;
  }
}

function say(input, says, text) {
  // Nothing changes as long as nothing changes: a status that is written again is read out again.
  if (says.textContent !== text) complain(input, says, text);
  return text;
}

/** The members of the request's object; `data` stays as it was written. */
function fieldsOf({ to, type, data, id, ttl }) {
  return [
    `"to":${JSON.stringify(to)}`,
    `"type":${JSON.stringify(type)}`,
    `"data":${data}`,
    ...(id ? [`"id":${JSON.stringify(id)}`] : []),
    ...(ttl ? [`"ttl":${Number(ttl)}`] : []),
  ];
}

function wrongChannel(channel) {
  if (channel === "all" || /^user:./.test(channel) || /^topic:[A-Za-z0-9._:@/-]{1,200}$/.test(channel)) return "";
  return "A channel is user:<id>, topic:<name> or all.";
}

/** JSON without the spaces between its tokens; numbers and strings as they were written. */
function oneLine(json) {
  return json.trim().replace(/"(?:[^"\\]|\\.)*"|\s+/g, (token) => (token[0] === '"' ? token : ""));
}

/** What is wrong with a text that should be JSON, and where, whatever the browser calls it. */
function wrongJson(text) {
  if (text.trim() === "") return "Some JSON: null is the least.";
  try {
    JSON.parse(text);
    return "";
  } catch ({ message }) {
    const place = /line (\d+) column (\d+)/.exec(message);
    const at = /position (\d+)/.exec(message);
    const line = place ? Number(place[1]) : at ? text.slice(0, Number(at[1])).split("\n").length : undefined;
    const what = message
      .replace(/^JSON\.parse: /, "")
      .replace(/,? ?\.*"[\s\S]*" is not valid JSON/, "")
      .replace(/ in JSON at[\s\S]*| at (?:position|line)[\s\S]*/, "")
      .trim();
    const hint = /'[^']*'\s*[:,}\]]/.test(text) ? " Strings have double quotes." : "";
    return `Not JSON yet${line > 1 ? `, line ${line}` : ""}: ${what[0].toLowerCase()}${what.slice(1)}.${hint}`;
  }
}

/** One answer of Herald, and whom its events reached. */
class Answer {
  element = make("li", { class: "answer" });
  #head = make("p", { class: "answer-head" });
  #reach = make("p", { class: "reach" });
  #place = make("p", { class: "position" });
  #event;
  #times;
  /** Pane → latencies, and how many came late. */
  #arrivals = new Map();
  #planned = false;

  constructor(event, times) {
    this.#event = event;
    this.#times = times;
    this.#head.append(make("span", { class: "status" }, "…"), make("span", { class: "answer-what" }, `${event.type} to ${event.to}`));
    this.element.append(this.#head, make("div", { class: "answer-rest" }, this.#reach, this.#place));
  }

  stored(status, results, took) {
    const positions = results.flatMap((result) => Object.entries(result.positions));
    const [channel, first] = positions[0];
    const last = positions[positions.length - 1][1];
    this.#place.textContent = positions.length > 1 ? `${first} to ${last.split("-")[1]}` : first;
    const duplicate = results.every((result) => result.duplicate);
    this.#head.replaceChildren(
      make("span", { class: "status good" }, String(status)),
      make("span", { class: "answer-what" }, this.#times > 1 ? `${format.count(this.#times, "event")} to ${channel}` : channel),
      make("span", { class: "took" }, format.ms(took)),
    );
    this.#reach.textContent = duplicate ? "A duplicate: it was stored before, and nothing is delivered again." : "Stored. Nobody here has it yet.";
    tell("answer", `${status}, stored in ${format.ms(took)}.`);
  }

  refused(error) {
    this.#head.replaceChildren(
      make("span", { class: "status bad" }, error.status ? String(error.status) : "no answer"),
      make("span", { class: "answer-what" }, `${this.#event.type} to ${this.#event.to}`),
    );
    this.#reach.textContent = error.message;
    tell("answer", `Not published: ${error.message}`);
  }

  reached({ pane, latency, late }) {
    const one = this.#arrivals.get(pane) ?? { latencies: [], late: 0 };
    this.#arrivals.set(pane, one);
    if (late) one.late++;
    else one.latencies.push(latency);
    if (this.#planned) return;
    this.#planned = true;
    setTimeout(() => {
      this.#planned = false;
      this.#show();
    }, 50);
  }

  #show() {
    const said = [...this.#arrivals].map(([pane, { latencies, late }]) => {
      const number = latencies.length + late;
      const how = latencies.length ? `in ${format.ms(format.median(latencies))}` : "once back";
      return this.#times > 1 ? `${pane.user} ${number.toLocaleString("en")} of ${this.#times.toLocaleString("en")}, ${how}` : `${pane.user} ${how}`;
    });
    this.#reach.textContent = `Reached ${said.join("; ")}.`;
  }
}
