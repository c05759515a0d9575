/** The user's tokens: asking the application for one, and reading what one says. */

import type { Clock } from "./clock.js";

/** A token, or null where nobody is logged in. */
export type Token = string | null;

/** What the application gives: a token, or how to get one. */
export type TokenSource = Token | (() => Token | Promise<Token>);

/** What a token claims; nothing of it is verified here. */
export interface Claims {
  user?: string;
  /** Unix seconds. */
  issued?: number;
  expires?: number;
  /** The topics that it names, without patterns. */
  topics: string[];
}

/** Milliseconds: an answer that takes longer counts as none. */
export const ANSWER_TIMEOUT = 30_000;

/** What a token consists of: the page of a gateway that fails is none. */
const FORM = /^[\w.~+/=-]+$/;

/** Gives back the token; throws where that can be none. */
export function checkToken(token: unknown): Token {
  if (token === null) return token;
  const text = typeof token === "string" ? token.trim() : "";
  if (FORM.test(text)) return text;
  let said: string = typeof token;
  if (typeof token === "string") said = JSON.stringify(text.slice(0, 50));
  if (token instanceof Promise) said = "a promise: give the function itself";
  throw new TypeError(`A token is a JWT, or null where nobody is logged in, not ${said}`);
}

/**
 * Asks for a token; `undefined`: there is no source, because a cookie speaks for the user. Rejects
 * where the application fails, gives what is none, or takes longer than 30 seconds.
 */
export async function askToken(
  source: TokenSource | undefined,
  clock: Pick<Clock, "after">,
): Promise<Token | undefined> {
  if (typeof source !== "function") return source;
  let stop = (): void => {};
  const timeout = new Promise<never>((_, reject) => {
    const late = (): void => reject(new Error("token() did not answer in 30 seconds"));
    stop = clock.after(ANSWER_TIMEOUT, late);
  });
  try {
    return checkToken(await Promise.race([source(), timeout]));
  } finally {
    stop();
  }
}

/** Reads a JWT; what is none claims nothing. */
export function readClaims(token: Token | undefined): Claims {
  const claims: Claims = { topics: [] };
  try {
    const body = token!.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
    const said = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
    if (typeof said["sub"] === "string") claims.user = said["sub"];
    if (typeof said["iat"] === "number") claims.issued = said["iat"];
    if (typeof said["exp"] === "number") claims.expires = said["exp"];
    if (Array.isArray(said["topics"])) {
      claims.topics = said["topics"].filter((name) => typeof name === "string" && !name.endsWith("*"));
    }
  } catch {
    // Herald takes JWTs only, but that is for it to say.
  }
  return claims;
}
