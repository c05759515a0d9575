/** A reader of `GET /v1/stream` that can stop reading, which the client never does. */

export class SlowReader {
  connection = "";
  /** How the server ended the stream: its message `close`, or undefined. */
  close;
  events = 0;
  duplicates = 0;
  disorder = 0;
  gaps = [];

  #token;
  #reader;
  #decoder = new TextDecoder();
  #rest = "";
  #id = "";
  #last = 0n;

  constructor(token) {
    this.#token = token;
  }

  /** The last position that was read. */
  get last() {
    return this.#last;
  }

  /** Opens a stream, after what was read before, and reads until its `welcome`. */
  async open() {
    const headers = { authorization: `Bearer ${this.#token}`, accept: "text/event-stream" };
    if (this.#id) headers["last-event-id"] = this.#id;
    const response = await fetch("/v1/stream", { headers, cache: "no-store" });
    if (!response.ok) throw new Error(`The stream was refused: HTTP ${response.status}`);
    this.#reader = response.body.getReader();
    this.#decoder = new TextDecoder();
    this.#rest = "";
    this.connection = "";
    this.close = undefined;
    while (!this.connection && (await this.#read()));
  }

  /** Reads until the stream ends, or `enough` says so. */
  async read(enough = () => false) {
    while (!enough() && (await this.#read()));
  }

  cancel() {
    this.#reader?.cancel().catch(() => {});
  }

  /** Reads a piece; false where there is no more. */
  async #read() {
    let piece;
    try {
      piece = await this.#reader.read();
    } catch {
      return false; // cut off
    }
    if (piece.done) return false;
    const blocks = (this.#rest + this.#decoder.decode(piece.value, { stream: true })).split("\n\n");
    this.#rest = blocks.pop();
    for (const block of blocks) this.#take(block);
    return true;
  }

  #take(block) {
    const id = /^id: (.*)$/m.exec(block)?.[1];
    const data = /^data: (.*)$/m.exec(block)?.[1];
    const message = data && JSON.parse(data);
    if (message?.type === "welcome") this.connection = message.connection;
    else if (message?.type === "close") this.close = message;
    else if (message?.type === "gap") this.gaps.push(message);
    else if (message?.type === "event") this.#event(BigInt(message.id.split("-")[1]));
    if (id) this.#id = id;
  }

  #event(sequence) {
    if (this.#last && sequence <= this.#last) this.duplicates++;
    else if (this.#last && sequence !== this.#last + 1n) this.disorder++;
    this.events++;
    this.#last = sequence;
  }
}
