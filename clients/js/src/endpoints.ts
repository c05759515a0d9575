/** Herald's addresses, from the one that the application gives. */

export interface Endpoints {
  websocket: string;
  sse: string;
}

/**
 * `ws`, `wss`, `http` or `https`, with or without `/v1/ws`; what stands before that path and after
 * the question mark is kept. An address without a scheme is relative to `base`, but for a host with
 * a port.
 *
 * @throws {TypeError} where it is no such address.
 */
export function endpointsOf(url: string | URL, base: string | undefined): Endpoints {
  const read = readUrl(url, base);
  const scheme = /^(?:http|ws)(s?):$/.exec(read?.protocol ?? "");
  if (!read || !scheme) {
    throw new TypeError(`Not an address: ${JSON.stringify(url)} (as https://herald.example)`);
  }
  const root = read.pathname.replace(/\/v1\/(?:ws|stream|events)\/?$|\/+$/, "");
  const at = (kind: string, path: string): string =>
    `${kind}${scheme[1]}://${read.host}${root}${path}${read.search}`;
  return { websocket: at("ws", "/v1/ws"), sse: at("http", "/v1/stream") };
}

function readUrl(url: string | URL, base: string | undefined): URL | undefined {
  // A setting that was forgotten would be an address on this page, "undefined"; so would a host
  // with a port.
  if (typeof url !== "string" ? !(url instanceof URL) : /^[^/?#]+:\d/.test(url)) return undefined;
  try {
    return new URL(url, base);
  } catch {
    return undefined;
  }
}
