/** Tabs with code, and a button that copies the one that is shown. */

import { make, tell } from "./dom.js";

/** Milliseconds. */
const FEEDBACK = 2500;

let serial = 0;

export class CodeTabs {
  #tabs;
  #panel;
  #text;
  #about;
  #copy;
  #snippets = [];
  #chosen = 0;
  #timer = 0;

  /**
   * @param {Element} root
   * @param {string} label of the row of tabs
   */
  constructor(root, label) {
    const id = `code-${++serial}`;
    this.#tabs = make("div", { class: "tabs", role: "tablist", "aria-label": label });
    this.#copy = make("button", { type: "button", class: "copy" }, "Copy");
    this.#text = make("code", {});
    this.#about = make("p", { class: "code-about" });
    this.#panel = make("div", { class: "code-panel", role: "tabpanel", id, tabindex: "0" }, this.#about, make("pre", {}, this.#text));
    root.append(make("div", { class: "code-head" }, this.#tabs, this.#copy), this.#panel);
    this.#tabs.addEventListener("click", ({ target }) => {
      const index = [...this.#tabs.children].indexOf(target.closest("[role=tab]"));
      if (index >= 0) this.#choose(index);
    });
    this.#tabs.addEventListener("keydown", (event) => this.#key(event));
    this.#copy.addEventListener("click", () => this.#copied());
  }

  /** @param {{name: string, text: string, about?: string}[]} snippets */
  show(snippets) {
    const named = this.#snippets.map(({ name }) => name).join() === snippets.map(({ name }) => name).join();
    this.#snippets = snippets;
    if (!named) {
      this.#tabs.replaceChildren(
        ...snippets.map(({ name }) => make("button", { type: "button", role: "tab", "aria-controls": this.#panel.id }, name)),
      );
      this.#chosen = 0;
    }
    this.#choose(this.#chosen);
  }

  #choose(index) {
    this.#chosen = index;
    const { name, text, about } = this.#snippets[index];
    [...this.#tabs.children].forEach((tab, place) => {
      tab.setAttribute("aria-selected", String(place === index));
      tab.tabIndex = place === index ? 0 : -1;
    });
    this.#panel.setAttribute("aria-label", name);
    this.#about.textContent = about ?? "";
    this.#about.hidden = !about;
    this.#text.textContent = text;
    this.#offer();
  }

  #offer() {
    clearTimeout(this.#timer);
    this.#copy.textContent = "Copy";
    this.#copy.classList.remove("done");
    this.#copy.setAttribute("aria-label", `Copy the ${this.#snippets[this.#chosen].name} lines`);
  }

  #key(event) {
    const last = this.#snippets.length - 1;
    const to = { ArrowRight: this.#chosen + 1, ArrowLeft: this.#chosen - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#choose((to + last + 1) % (last + 1));
    this.#tabs.children[this.#chosen].focus();
  }

  async #copied() {
    const text = this.#text.textContent;
    const done = (await copy(text)) || copyOldWay(this.#text);
    this.#copy.textContent = done ? "Copied" : "Press Ctrl C";
    this.#copy.classList.toggle("done", done);
    tell("copy", done ? "Copied." : "The text is selected: copy it with the keyboard.");
    this.#copy.removeAttribute("aria-label");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#offer(), FEEDBACK);
  }
}

/** Browsers have no clipboard for pages from other machines without TLS, or the user denies it. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** Selects the text, too, so that whoever reads "press Ctrl C" can. */
function copyOldWay(element) {
  getSelection().selectAllChildren(element);
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  }
}
