/**
 * Links over server-sent events, read with `fetch`: docs/sse.md.
 *
 * A stream is one-way: what `connect` asks for is put into its URL, and to ask for something else
 * the stream is ended and another one opened from the positions that are held, so nothing is lost
 * and nothing comes twice. To the protocol core that is a connection that is welcomed again.
 */

import type { Clock } from "./clock.js";
import { LOST, UNAUTHORIZED, advise } from "./close.js";
import { EventStreamParser } from "./event-stream.js";
import { readMessage, type Link, type LinkListener, type Wanted } from "./link.js";
import { channelOf, type ClientMessage } from "./messages.js";

/** What is needed to open streams. */
export interface StreamOptions {
  fetch: typeof fetch;
  url: string;
  parse: (text: string) => unknown;
  clock: Clock;
  wanted: Wanted;
}

/** The close codes of statuses that Herald refuses a stream with. */
const CODES = new Map([
  [400, 1008],
  [401, UNAUTHORIZED],
  [403, 3003],
  [429, 4101],
  [503, 1013],
]);
/** The media type in which Herald says what is wrong: RFC 9457. */
const PROBLEM = "application/problem+json";
/** Bytes, and milliseconds, in which it must have said so. */
const PROBLEM_LIMIT = 16_384;
const PROBLEM_TIMEOUT = 2000;
/** Characters of it that are told. */
const DETAIL_LIMIT = 500;
const TRY_AGAIN = 1013;
const TOO_MANY = 4101;

/** Opens a stream, once `connect` was sent. */
export function openStream(options: StreamOptions, listener: LinkListener): Link {
  return new Stream(options, listener);
}

class Stream implements Link {
  readonly #options: StreamOptions;
  readonly #listener: LinkListener;
  #token: string | undefined;
  /** Topics whose `unsubscribed` is yet to be told. */
  #left: string[] = [];
  /** The stream that is read; aborted where it is no longer. */
  #reading: AbortController | undefined;
  #welcomed = false;
  #closed = false;
  #cancel: () => void;

  constructor(options: StreamOptions, listener: LinkListener) {
    this.#options = options;
    this.#listener = listener;
    this.#cancel = options.clock.after(0, () => listener.opened());
  }

  send(message: ClientMessage): void {
    switch (message.type) {
      case "connect":
        this.#token = message.token;
        this.#read();
        break;
      case "auth":
        this.#token = message.token;
        this.#readAgain();
        break;
      case "subscribe":
        this.#readAgain();
        break;
      case "unsubscribe":
        this.#left.push(message.topic);
        this.#readAgain();
        break;
    }
  }

  close(): void {
    this.#closed = true;
    this.#cancel();
    this.#reading?.abort();
  }

  probe(): boolean {
    return false;
  }

  /** What the application asks for in one go makes one new stream. */
  #readAgain(): void {
    this.#cancel();
    this.#cancel = this.#options.clock.after(0, () => {
      const left = this.#left;
      this.#left = [];
      for (const topic of left) {
        this.#listener.said({ type: "unsubscribed", channel: channelOf(topic) });
      }
      if (!this.#closed) this.#read();
    });
  }

  #read(): void {
    this.#reading?.abort();
    const reading = new AbortController();
    this.#reading = reading;
    this.#stream(reading.signal).then(
      ([code, reason]) => this.#ended(reading, code, reason),
      (error: unknown) => this.#ended(reading, LOST, tell(error)),
    );
  }

  #ended(reading: AbortController, code: number, reason: string): void {
    if (this.#closed || this.#reading !== reading) return;
    this.close();
    this.#listener.closed(code, reason);
  }

  /** Reads one stream; gives back how it ended. */
  async #stream(signal: AbortSignal): Promise<[number, string]> {
    const headers: Record<string, string> = { accept: "text/event-stream" };
    if (this.#token) headers["authorization"] = `Bearer ${this.#token}`;
    const response = await this.#options.fetch(this.#url(), {
      headers,
      signal,
      cache: "no-store",
      credentials: this.#token ? "omit" : "include",
    });
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
    if (!response.ok || !response.body || !isStream) {
      const detail = await this.#readDetail(response);
      return signal.aborted ? [LOST, ""] : this.#refused(response, detail);
    }
    const { parse } = this.#options;
    const parser = new EventStreamParser();
    const decoder = new TextDecoder();
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (signal.aborted) return [LOST, ""];
      if (done) return [LOST, "the stream was cut off"];
      this.#listener.heard();
      for (const text of parser.push(decoder.decode(value, { stream: true }))) {
        const message = readMessage(text, parse);
        if (message?.type === "close") {
          await reader.cancel().catch(() => {});
          return [message.code, message.reason];
        }
        if (message?.type === "welcome") this.#welcomed = true;
        if (message) this.#listener.said(message);
        else this.#listener.babbled(text);
        if (signal.aborted) return [LOST, ""];
      }
    }
  }

  #refused(response: Response, detail: string): [number, string] {
    const reason = `HTTP ${response.status}${detail && `: ${detail}`}`;
    let code = CODES.get(response.status) ?? LOST;
    // What is between may say such a thing as well: that is a network that fails.
    if (!isProblem(response) && advise(code) === "stay") code = LOST;
    // Herald may not have noticed yet that the stream before has ended.
    if (code === TOO_MANY && this.#welcomed) return [TRY_AGAIN, reason];
    const seconds = Number(response.headers.get("retry-after"));
    if (code === TRY_AGAIN && seconds > 0) {
      this.#listener.said({ type: "reconnect", after_ms: seconds * 1000 });
    }
    return [code, reason];
  }

  /** What a problem document says is wrong; empty where there is none that can be read. */
  async #readDetail(response: Response): Promise<string> {
    const reader = response.body?.getReader();
    if (!reader) return "";
    const give = (): void => void reader.cancel().catch(() => {});
    const stop = this.#options.clock.after(PROBLEM_TIMEOUT, give);
    try {
      const decoder = new TextDecoder();
      let text = "";
      for (let size = 0; isProblem(response) && size <= PROBLEM_LIMIT; ) {
        const { done, value } = await reader.read();
        if (done) {
          const { detail } = JSON.parse(text) as { detail?: unknown };
          return typeof detail === "string" ? detail.slice(0, DETAIL_LIMIT) : "";
        }
        size += value.length;
        text += decoder.decode(value, { stream: true });
      }
    } catch {
      // It was cut off, or is no such document.
    } finally {
      stop();
      give();
    }
    return "";
  }

  #url(): string {
    const url = new URL(this.#options.url);
    const { topics, positions } = this.#options.wanted;
    if (topics.size) url.searchParams.set("topics", [...topics].join(","));
    for (const [channel, position] of positions) {
      url.searchParams.append("since", `${channel}@${position.text}`);
    }
    return url.href;
  }
}

function isProblem(response: Response): boolean {
  return !!response.headers.get("content-type")?.startsWith(PROBLEM);
}

/** Node says what was wrong in the cause only. */
function tell(error: unknown): string {
  const { cause } = error as { cause?: unknown };
  return cause instanceof Error ? `${error}: ${cause.message || cause.name}` : String(error);
}
