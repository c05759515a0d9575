/** Puts the page together. */

import { about, ask, learn } from "./dev.js";
import { byId, make } from "./dom.js";
import * as format from "./format.js";
import { Pane } from "./pane.js";
import { PublishForm } from "./publish.js";
import * as trials from "./trials.js";

/** Whom the panes are for, each with a heraldic tincture. */
const PEOPLE = [
  { user: "alice", topics: "news.sport", transport: "websocket", tincture: "azure" },
  { user: "bob", topics: "news.sport, news.art", transport: "sse", tincture: "gules" },
  { user: "carol", topics: "", transport: "websocket", tincture: "vert" },
  { user: "dave", topics: "news.art", transport: "sse", tincture: "purpure" },
];

const panes = [];
let added = 0;
let form;

const listener = {
  changed() {
    suggest();
  },
  arrived(pane, event, latency, late) {
    form.arrived(pane, event, latency, late);
  },
  removed(pane) {
    panes.splice(panes.indexOf(pane), 1);
    suggest();
    byId("add").focus();
  },
};

function addPane() {
  const round = Math.floor(added / PEOPLE.length);
  const person = PEOPLE[added % PEOPLE.length];
  added++;
  const pane = new Pane(listener, { ...person, user: person.user + (round ? round + 1 : "") });
  panes.push(pane);
  byId("add").before(pane.element);
  suggest();
  return pane;
}

let suggested = "";

function suggest() {
  if (!form) return;
  const heard = new Set(panes.flatMap((pane) => pane.channels));
  heard.delete("user:");
  const isTopic = (channel) => channel.startsWith("topic:");
  const channels = [...[...heard].filter((channel) => !isTopic(channel)), "all", ...[...heard].filter(isTopic)];
  const names = panes.map((pane) => pane.user);
  const now = JSON.stringify([channels, names]);
  if (now === suggested) return;
  suggested = now;
  form.suggest(channels);
  const subject = byId("subject");
  const chosen = subject.value;
  subject.replaceChildren(...names.map((name, index) => make("option", { value: String(index) }, name || "nobody")));
  subject.value = names[chosen] === undefined ? "0" : chosen;
}

function notice(text, ...more) {
  byId("notices").append(make("p", { class: "notice" }, text, ...more));
}

function introduce() {
  const kept = about.history_size.toLocaleString("en");
  byId("facts").append(
    make("span", {}, `version ${about.version}`),
    make("span", {}, `dev mode on ${location.host}`),
    make("span", {}, `${kept} events kept per channel`),
  );
  if (about.api_port !== null) {
    notice(`The API has a port of its own, ${about.api_port}. Pages of this port may not ask it, so in dev mode Herald passes on what you publish here; the curl lines go there themselves.`);
  }
  if (about.workers > 1) {
    notice(`HERALD_WORKERS is ${about.workers}: cutting, the drain and the slow consumer reach only the connections of the worker that happens to answer. With one worker they always work.`);
  }
  if (about.allowed_origins.length && !about.allowed_origins.includes(location.origin)) {
    notice(`HERALD_ALLOWED_ORIGINS does not name ${location.origin}, so Herald refuses the connections of this page. Add it there to try them.`);
  }
  if (!about.mint) notice("HERALD_JWT_SECRET is not set, so Herald makes no tokens: bring some from your issuer.");
  if (about.key === null) notice("Herald knows only the digests of its API keys: enter one to publish.");
}

function subject() {
  const pane = panes[byId("subject").value];
  if (!pane) throw new Error("Add a pane first.");
  return pane;
}

async function bringToken(user) {
  if (!about.mint) throw new Error("This trial needs a token of its own, and Herald makes none here.");
  return (await ask("token", { user, topics: [], ttl: 600 })).token;
}

function listenToTrials() {
  const publish = (event, times) => form.publish({ id: "", ttl: "", ...event }, times);
  const all = {
    drop: (steps) => trials.drop(steps, subject(), publish),
    gap: (steps) => trials.gap(steps, subject(), publish),
    drain: (steps) => trials.drain(steps, panes, subject(), publish),
    slow: (steps) => trials.slow(steps, subject().user, bringToken, (fill) => showGauge(steps.card, fill)),
  };
  for (const card of document.querySelectorAll("[data-trial]")) {
    card.querySelector("button").addEventListener("click", () => void trials.run(card, all[card.dataset.trial]));
  }
}

/** How much waits in the server for the reader that does not read. */
function showGauge(card, { waiting, sent }) {
  const gauge = card.querySelector(".gauge");
  gauge.hidden = false;
  const limit = about.send_queue_bytes;
  gauge.querySelector("rect").setAttribute("width", String(Math.min(100, (waiting / limit) * 100)));
  gauge.querySelector(".gauge-says").textContent = `${format.bytes(sent)} sent; ${format.bytes(waiting)} of ${format.bytes(limit)} wait in Herald`;
}

async function begin() {
  try {
    await learn();
  } catch (error) {
    notice(error.message);
    return;
  }
  introduce();
  form = new PublishForm();
  addPane();
  byId("add").addEventListener("click", () => {
    const pane = addPane();
    pane.element.querySelector("input, textarea").focus();
  });
  listenToTrials();
  document.documentElement.classList.add("ready");
}

void begin();
