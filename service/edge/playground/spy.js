/**
 * Looks at what goes over the wire, beside the client: it keeps to itself what the page wants to
 * show, as the connection's id, what it dropped as a duplicate, and how a connection ended.
 */

/**
 * @typedef {object} Listener
 * @property {(message: any) => void} said  a message of the server
 * @property {(code: number, reason: string) => void} ended  of a WebSocket
 */

/** A class of WebSockets to give to the client. */
export function spyingWebSocket(listener) {
  return class extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols);
      // Before the client's own handlers, which are set later.
      this.addEventListener("message", ({ data }) => listener.said(JSON.parse(data)));
      this.addEventListener("close", ({ code, reason }) => listener.ended(code, reason));
    }
  };
}

/** A `fetch` to give to the client. */
export function spyingFetch(listener) {
  return async (input, init) => {
    const response = await fetch(input, init);
    if (!response.ok || !response.body) return response;
    const decoder = new TextDecoder();
    let rest = "";
    const look = new TransformStream({
      transform(chunk, controller) {
        const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (line.startsWith("data: ")) listener.said(JSON.parse(line.slice(6)));
        }
        controller.enqueue(chunk);
      },
    });
    const { status, statusText, headers } = response;
    return new Response(response.body.pipeThrough(look), { status, statusText, headers });
  };
}
