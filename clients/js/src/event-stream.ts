/** Reads server-sent events (HTML standard, 9.2.6): text in, the `data` of messages out. */

export class EventStreamParser {
  #rest = "";
  #data: string | undefined;
  #started = false;

  /** Takes the next piece of text; gives back the messages that it completes. */
  push(text: string): string[] {
    if (!this.#started && text) {
      this.#started = true;
      if (text.startsWith("\uFEFF")) text = text.slice(1);
    }
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    // A carriage return at the end may be half of a line's end: it waits for what follows.
    this.#rest = lines.pop()!;
    const messages: string[] = [];
    for (const line of lines) this.#line(line, messages);
    return messages;
  }

  #line(line: string, messages: string[]): void {
    if (line === "") {
      if (this.#data !== undefined) messages.push(this.#data);
      this.#data = undefined;
    } else if (line === "data" || line.startsWith("data:")) {
      const value = line.slice(line[5] === " " ? 6 : 5);
      this.#data = this.#data === undefined ? value : `${this.#data}\n${value}`;
    }
    // Comments, `id`, `retry`: what they say is in the messages.
  }
}
