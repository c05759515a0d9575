/** Close codes, and what a client does after each. */

/**
 * - `stay`: the same attempt would end the same way.
 * - `now`: come back at once.
 * - `token`: come back with a new token.
 * - `backoff`: come back after a while.
 */
export type Advice = "stay" | "now" | "token" | "backoff";

/** The code of a connection that nobody closed: RFC 6455, 7.1.5. */
export const LOST = 1006;
/** The server refused the token, or it has expired. */
export const UNAUTHORIZED = 3000;

const STAY = new Set([1000, 1002, 1003, 1007, 1008, 1009, 3003]);

/** What the code advises; codes that are not known are the network's. */
export function advise(code: number): Advice {
  if (code === UNAUTHORIZED) return "token";
  if (STAY.has(code) || (code >= 4100 && code < 4200)) return "stay";
  return code >= 4000 && code < 4100 ? "now" : "backoff";
}

/** Why a client waits, in a word for the page. */
export type WaitReason = "network" | "restart" | "busy" | "unauthorized" | "slow" | "token";

/** The word for a close code. */
export function reasonFor(code: number): WaitReason {
  if (code === UNAUTHORIZED) return "unauthorized";
  if (code === 1012) return "restart";
  if (code === 1013 || code === 1011) return "busy";
  return code >= 4000 && code < 4100 ? "slow" : "network";
}
