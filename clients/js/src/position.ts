/** Positions: places in a channel's log, `<epoch>-<seq>`. */

/** A position, read. */
export interface Position {
  readonly epoch: bigint;
  readonly seq: bigint;
  /** As the server wrote it. */
  readonly text: string;
}

const FORM = /^(\d{1,20})-(\d{1,20})$/;
const LIMIT = 1n << 64n;

/** Reads a position; undefined where `text` is none. */
export function parsePosition(text: unknown): Position | undefined {
  const parts = typeof text === "string" ? FORM.exec(text) : null;
  if (!parts) return undefined;
  const epoch = BigInt(parts[1]!);
  const seq = BigInt(parts[2]!);
  return epoch < LIMIT && seq < LIMIT ? { epoch, seq, text: parts[0] } : undefined;
}

/** Whether `a` is later than `b`: two numbers, the epoch first. */
export function isLater(a: Position, b: Position): boolean {
  return a.epoch > b.epoch || (a.epoch === b.epoch && a.seq > b.seq);
}

/** Whether it asks for everything that is retained: `0-0`. */
export function isBeginning({ epoch, seq }: Position): boolean {
  return epoch === 0n && seq === 0n;
}

/** Positions by channel. */
export type Positions = Map<string, Position>;

/** Positions as JSON; a channel may have any name, also one that objects give a meaning to. */
export function toRecord(positions: ReadonlyMap<string, Position>): Record<string, string> {
  const record = Object.create(null) as Record<string, string>;
  for (const [channel, position] of positions) record[channel] = position.text;
  return record;
}

/** Reads positions; what is none is left out. */
export function fromRecord(record: unknown): Positions {
  const positions: Positions = new Map();
  if (typeof record === "object" && record !== null) {
    for (const [channel, text] of Object.entries(record)) {
      const position = parsePosition(text);
      if (position) positions.set(channel, position);
    }
  }
  return positions;
}
