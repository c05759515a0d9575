/** The client for Herald: see README.md. */

export { connect, type Gap, type Herald, type HeraldEvent } from "./herald.js";
export { HeraldError } from "./errors.js";
export type { State } from "./feed.js";
export type { Unsubscribe } from "./handlers.js";
export type { HeraldOptions } from "./options.js";
export type { StorageLike } from "./storage.js";
export type { Token, TokenSource } from "./token.js";
export type { TransportName } from "./link.js";
export type { WebSocketClass, WebSocketLike } from "./websocket.js";
export type { WaitReason } from "./close.js";
export type { ClosedWhy } from "./protocol.js";
