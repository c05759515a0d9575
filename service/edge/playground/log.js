/** The list of what a pane has seen, oldest first; it follows its end unless somebody scrolled up. */

import { make, part } from "./dom.js";

/** Rows that are kept; a burst would fill the memory otherwise. */
const MOST = 200;
/** Milliseconds in which a row that matters stays in view, whatever follows it. */
const HOLD = 4000;

export class Log {
  #list;
  #newest;
  #hint;
  #waiting = [];
  #planned = false;
  #follows = true;
  /** A row to be kept in view, and until when; where that was scrolled to. */
  #held;
  #holdUntil = 0;
  #heldAt = -1;
  #dropped = 0;
  #note;

  /** @param {Element} root of the pane */
  constructor(root) {
    this.#list = part(root, "log");
    this.#newest = part(root, "newest");
    this.#hint = part(root, "hint");
    this.#list.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#newest.addEventListener("click", () => {
      this.#held = undefined;
      this.#toEnd();
      this.#list.focus();
    });
  }

  /** What stands there while it is empty. */
  set hint(text) {
    this.#hint.textContent = text;
  }

  /** Adds a row, with the next frame: many may come at once. */
  add(row) {
    this.#waiting.push(row);
    if (this.#waiting.length > MOST) {
      this.#waiting.shift();
      this.#dropped++;
    }
    if (this.#planned) return;
    this.#planned = true;
    // A page that is not seen has no frames.
    if (document.hidden) setTimeout(() => this.#show(), 100);
    else requestAnimationFrame(() => this.#show());
  }

  /** Adds a row that is not to be missed in a flood of others. */
  addAndHold(row) {
    if (!this.#held) this.#holdUntil = Date.now() + HOLD;
    this.#held ??= row;
    this.add(row);
  }

  clear() {
    this.#waiting = [];
    this.#dropped = 0;
    this.#note = this.#held = undefined;
    this.#list.replaceChildren();
    this.#hint.hidden = false;
  }

  #show() {
    this.#planned = false;
    this.#hint.hidden = true;
    this.#list.append(...this.#waiting.map((row) => (row instanceof Node ? row : row())));
    this.#waiting = [];
    while (this.#list.childElementCount > MOST + 1) {
      const oldest = this.#list.firstElementChild;
      (oldest === this.#note ? oldest.nextElementSibling : oldest).remove();
      this.#dropped++;
    }
    if (this.#dropped) {
      this.#note ??= make("li", { class: "row note" });
      this.#note.textContent = `${this.#dropped.toLocaleString("en")} earlier rows are not shown`;
      this.#list.prepend(this.#note);
    }
    if (!this.#held?.isConnected || Date.now() > this.#holdUntil) this.#held = undefined;
    if (!this.#follows) this.#newest.hidden = false;
    else if (this.#held) this.#hold();
    else this.#toEnd();
  }

  #hold() {
    this.#toEnd();
    const { clientHeight, scrollTop } = this.#list;
    const top = this.#held.offsetTop - clientHeight / 3;
    if (top >= scrollTop) return;
    this.#list.scrollTop = top;
    this.#heldAt = this.#list.scrollTop;
    this.#newest.hidden = false;
  }

  #toEnd() {
    this.#follows = true;
    this.#newest.hidden = true;
    this.#list.scrollTop = this.#list.scrollHeight;
    this.#heldAt = this.#list.scrollTop;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#list;
    if (this.#held && scrollTop === this.#heldAt) return;
    this.#held = undefined;
    this.#follows = scrollHeight - scrollTop - clientHeight < 24;
    if (this.#follows) this.#newest.hidden = true;
  }
}

/** A row for an event. */
export function eventRow({ type, channel, position, data, latency, late }) {
  return make(
    "li",
    { class: late ? "row event late" : "row event" },
    make("span", { class: "what" }, make("span", { class: "type" }, type), make("span", { class: "channel" }, channel)),
    make("span", { class: "latency" }, late ? `caught up ${latency}` : latency),
    make("code", { class: "data" }, data),
    make("span", { class: "where position" }, position),
  );
}

/** A row for a gap. */
export function gapRow({ channel, from, to }) {
  return make(
    "li",
    { class: "row gap" },
    make("strong", {}, "Gap"),
    ` in ${channel}. Events after `,
    make("span", { class: "position" }, from),
    " may be missing; what follows comes after ",
    make("span", { class: "position" }, to),
    ". An app loads its state afresh here.",
  );
}

/** A row for what happened to the connection. */
export function noteRow(text, kind = "") {
  return make("li", { class: `row note ${kind}` }, text);
}
