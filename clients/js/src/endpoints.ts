/** Herald's addresses, from the one that the application gives. */

export interface Endpoints {
  websocket: string;
  sse: string;
}

/**
 * `ws`, `wss`, `http` or `https`, with or without `/v1/ws`; what stands before that path and after
 * the question mark is kept. An address without a scheme is relative to `base`.
 *
 * @throws {TypeError} where it is no such address.
 */
export function endpointsOf(url: string | URL, base: string | undefined): Endpoints {
  // A setting that was forgotten would be an address on this page: "undefined".
  if (typeof url !== "string" && !(url instanceof URL)) throw new TypeError(`Not an address: ${url}`);
  const read = new URL(url, base);
  const scheme = /^(?:http|ws)(s?):$/.exec(read.protocol);
  if (!scheme) throw new TypeError(`Not an address of ws, wss, http or https: ${url}`);
  const root = read.pathname.replace(/\/v1\/(?:ws|stream)\/?$|\/+$/, "");
  const at = (kind: string, path: string): string =>
    `${kind}${scheme[1]}://${read.host}${root}${path}${read.search}`;
  return { websocket: at("ws", "/v1/ws"), sse: at("http", "/v1/stream") };
}
