/** What client and server say; docs/protocol.md tells what it means. */

/** A channel that was joined. */
export interface Joined {
  /** Events follow from here. */
  position: string;
  /** Whether this is exactly where the client left off. */
  recovered: boolean;
}

export interface WelcomeMessage {
  type: "welcome";
  connection: string;
  user: string;
  /** Seconds. */
  heartbeat: number;
  /** Unix seconds. */
  expires?: number;
  channels: Record<string, Joined>;
}

export interface EventMessage {
  type: "event";
  channel: string;
  /** The event's position. */
  id: string;
  /** The publisher's type. */
  event: string;
  data: unknown;
  /** RFC 3339: when the server accepted it. */
  time: string;
}

export interface GapMessage {
  type: "gap";
  channel: string;
  from: string;
  to: string;
}

export interface SubscribedMessage extends Joined {
  type: "subscribed";
  channel: string;
}

export interface UnsubscribedMessage {
  type: "unsubscribed";
  channel: string;
}

export interface AuthenticatedMessage {
  type: "authenticated";
  expires?: number;
}

export interface ReconnectMessage {
  type: "reconnect";
  after_ms: number;
}

export interface ErrorMessage {
  type: "error";
  code: string;
  message: string;
  channel?: string;
}

/** The last one of a stream of server-sent events; a WebSocket has a frame for it. */
export interface CloseMessage {
  type: "close";
  code: number;
  reason: string;
}

export type ServerMessage =
  | WelcomeMessage
  | EventMessage
  | GapMessage
  | SubscribedMessage
  | UnsubscribedMessage
  | AuthenticatedMessage
  | ReconnectMessage
  | ErrorMessage
  | CloseMessage
  | { type: "ping" }
  | { type: "pong" };

export interface ConnectMessage {
  type: "connect";
  token?: string;
  positions?: Record<string, string>;
  topics?: string[];
}

export type ClientMessage =
  | ConnectMessage
  | { type: "auth"; token: string }
  | { type: "subscribe"; topic: string; position?: string }
  | { type: "unsubscribe"; topic: string }
  | { type: "ping" }
  | { type: "pong" };

/** The keys that a message must have, each a string. */
const NEEDED: Readonly<Record<string, readonly string[] | undefined>> = {
  welcome: ["user"],
  event: ["channel", "id", "event"],
  gap: ["channel", "from", "to"],
  subscribed: ["channel", "position"],
  unsubscribed: ["channel"],
  error: ["code", "message"],
};

/** Whether this is a message that can be dealt with; those of unknown types can be passed over. */
export function isMessage(value: unknown): value is ServerMessage {
  const message = value as Record<string, unknown> | null;
  if (typeof message !== "object" || typeof message?.["type"] !== "string") return false;
  const needed = Object.hasOwn(NEEDED, message["type"]) ? NEEDED[message["type"]]! : [];
  return needed.every((key) => typeof message[key] === "string");
}

const TOPIC = /^[A-Za-z0-9._:@/-]{1,200}$/;
const TOPIC_CHANNEL = "topic:";

/** Whether a topic may have this name. */
export function isTopic(name: unknown): name is string {
  return typeof name === "string" && TOPIC.test(name);
}

/** Whether a channel may have this name. */
export function isChannel(name: string): boolean {
  const topic = topicOf(name);
  return topic === undefined ? /^(?:all|user:\P{Cc}{1,255})$/u.test(name) : isTopic(topic);
}

/** The channel of a topic. */
export function channelOf(topic: string): string {
  return TOPIC_CHANNEL + topic;
}

/** The topic of a channel; undefined where it is no topic's. */
export function topicOf(channel: string): string | undefined {
  return channel.startsWith(TOPIC_CHANNEL) ? channel.slice(TOPIC_CHANNEL.length) : undefined;
}
