/** What the client needs of the machine that it runs on; any part may be missing. */

import { systemClock, type Clock } from "./clock.js";
import type { Page } from "./page.js";
import type { StorageLike } from "./storage.js";
import type { WebSocketClass } from "./websocket.js";

/** The part of `navigator.locks` that is used. */
export interface Locks {
  request(
    name: string,
    options: { signal?: AbortSignal; steal?: boolean },
    held: () => unknown,
  ): Promise<unknown>;
}

/** The part of a BroadcastChannel that is used. */
export interface Broadcast {
  onmessage: ((event: any) => void) | null;
  postMessage(message: unknown): void;
  close(): void;
}

export interface Environment {
  clock: Clock;
  WebSocket: WebSocketClass | undefined;
  fetch: typeof fetch | undefined;
  locks: Locks | undefined;
  BroadcastChannel: (new (name: string) => Broadcast) | undefined;
  /** Gives or throws. */
  localStorage: () => StorageLike | undefined;
  page: Page | undefined;
  /** The page's address. */
  base: string | undefined;
}

/** This machine, as it is now. */
export function thisMachine(): Environment {
  const { document, location, navigator } = globalThis as Partial<typeof globalThis>;
  return {
    clock: systemClock,
    WebSocket: globalThis.WebSocket,
    fetch: globalThis.fetch?.bind(globalThis),
    locks: navigator?.locks as Locks | undefined,
    BroadcastChannel: globalThis.BroadcastChannel,
    localStorage: () => globalThis.localStorage,
    page: document ? (globalThis as unknown as Page) : undefined,
    base: location?.href,
  };
}
