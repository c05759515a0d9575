/** What goes wrong, told to `onError`. */

/**
 * `code` is a word:
 * - the server's own (docs/protocol.md: `forbidden`, `too_many_subscriptions` …),
 * - `token`: `token()` failed; it is asked again,
 * - `network`: the server could not be reached, and never was; told once, it is tried again,
 * - `gap`: events may be missing, and there is no `onGap` handler,
 * - `transport`: a connection cannot even be tried, because the page's security policy forbids it,
 * - `handler`: a handler threw; the event counts as dealt with,
 * - `storage`: positions cannot be stored; they are kept in memory,
 * - `message`: the server said something that is no JSON object,
 * - `unauthorized`, `refused`: the connection is closed for good,
 * - `overflow`: thrown by an iterator whose reader was too slow.
 */
export class HeraldError extends Error {
  override readonly name = "HeraldError";
  readonly code: string;
  /** The channel that it concerns. */
  readonly channel: string | undefined;

  constructor(
    code: string,
    message: string,
    details: { channel?: string | undefined; cause?: unknown } = {},
  ) {
    super(message, "cause" in details ? { cause: details.cause } : undefined);
    this.code = code;
    this.channel = details.channel;
  }
}
