/** Links over WebSockets. */

import { LOST } from "./close.js";
import { readMessage, type Link, type LinkListener } from "./link.js";
import type { ClientMessage } from "./messages.js";

/** The part of a WebSocket that is used; browsers' and the npm package `ws` have it. */
export interface WebSocketLike {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number): void;
  /** `ws` only. */
  terminate?(): void;
}

/** A class of WebSockets. */
export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike;

const SUBPROTOCOL = "herald.v1";
const NORMAL = 1000;

/** Opens a WebSocket. `parse` reads JSON. */
export function openWebSocket(
  WebSocket: WebSocketClass,
  url: string,
  parse: (text: string) => unknown,
  listener: LinkListener,
): Link {
  const socket = new WebSocket(url, [SUBPROTOCOL]);
  const send = (message: ClientMessage): void => socket.send(JSON.stringify(message));
  socket.onopen = () => listener.opened();
  socket.onmessage = ({ data }) => {
    listener.heard();
    const message = readMessage(data, parse);
    if (message) listener.said(message);
    else listener.babbled(String(data));
  };
  let error = "";
  socket.onclose = ({ code, reason }) => listener.closed(code ?? LOST, String(reason || error));
  // `close` follows. `ws` ends the process where nobody listens for errors, and says what is wrong;
  // browsers do not.
  socket.onerror = (event) => void (error = String(event?.message ?? ""));
  return {
    send,
    close(dead) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      if (dead && socket.terminate) socket.terminate();
      else socket.close(NORMAL);
    },
    probe() {
      send({ type: "ping" });
      return true;
    },
  };
}
