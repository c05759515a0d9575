/** Where events come from: a connection of one's own, or one that the tabs share. */

import type { WaitReason } from "./close.js";
import type { HeraldError } from "./errors.js";
import type { TransportName } from "./link.js";
import type { ServerMessage } from "./messages.js";
import type { Position } from "./position.js";
import type { ClosedWhy } from "./protocol.js";

/** For a page to show. A new object for each change. */
export type State =
  | { readonly name: "connecting" }
  | { readonly name: "live"; readonly user: string; readonly transport: TransportName }
  | {
      readonly name: "waiting";
      /** When the next attempt begins: Unix time, milliseconds. */
      readonly until: number;
      readonly why: WaitReason;
    }
  | {
      readonly name: "closed";
      readonly why: ClosedWhy;
      /** The server's close code, where that is why. */
      readonly code?: number;
      readonly reason?: string;
    };

/** What a feed tells. */
export interface FeedListener {
  /**
   * A message for the application or about its channels: `welcome`, `subscribed`, `unsubscribed`,
   * `event`, `gap` or `error`. `after`: the feed's position in the message's channel before it.
   */
  deliver(message: ServerMessage, after: Position | undefined): void;
  state(state: State): void;
  failed(error: HeraldError): void;
}

/** Why to look after the connection at once. */
export type Wake = "online" | "offline" | "visible";

export interface Feed {
  start(): void;
  /** Join a topic, after `position` where one is given. */
  subscribe(topic: string, position?: Position): void;
  unsubscribe(topic: string): void;
  /** Something has changed that timers know nothing of. */
  wake(why: Wake): void;
  /** The page is put away; `resume` may follow. */
  suspend(): void;
  resume(): void;
  /** For good. */
  close(): void;
}
