/** Small helpers for the document. */

/**
 * Makes an element. Properties are attributes; `class` too. Children are nodes or text.
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(Node|string)} children
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** The element with this `data-` attribute inside another. */
export function part(root, name) {
  return root.querySelector(`[data-${name}]`);
}

const SVG = "http://www.w3.org/2000/svg";

/** Makes an SVG element. */
export function makeSvg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Says what is wrong with a field, or nothing. */
export function complain(input, says, text) {
  says.textContent = text;
  says.classList.toggle("bad", Boolean(text));
  if (text) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

const SPEAK_EVERY = 3000;
let speech = [];
let timer = 0;

/**
 * Tells those who listen to the page instead of looking at it: a summary now and then, because a
 * word for each event would drown everything. A later text with the same topic replaces it.
 */
export function tell(topic, text) {
  speech = speech.filter((one) => one.topic !== topic);
  speech.push({ topic, text });
  if (timer) return;
  speak();
  timer = setTimeout(function next() {
    timer = 0;
    if (speech.length) {
      speak();
      timer = setTimeout(next, SPEAK_EVERY);
    }
  }, SPEAK_EVERY);
}

function speak() {
  byId("live").textContent = speech.map(({ text }) => text).join(" ");
  speech = [];
}
