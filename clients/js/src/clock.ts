/** Time and chance, as arguments: tests bring their own. */

export interface Clock {
  /** Unix time, milliseconds. */
  now(): number;
  /** From 0 to 1. */
  random(): number;
  /** Milliseconds that have passed, from any moment; time that the machine slept counts. */
  elapsed(): number;
  /** Calls `then` after so many milliseconds; gives back what cancels it. */
  after(milliseconds: number, then: () => void): () => void;
}

/** More overflows a timer's 32 bits, and it would fire at once. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** The machine's own. */
export const systemClock: Clock = {
  now: () => Date.now(),
  random: () => Math.random(),
  elapsed,
  after(milliseconds, then) {
    const timer = setTimeout(then, Math.min(milliseconds, LONGEST_TIMER));
    return () => clearTimeout(timer);
  },
};

let passed = 0;
let wall = 0;
let steady = 0;

/**
 * The steady clock of some browsers stops while the machine sleeps, and the wall clock may be set
 * back: each step is the larger of theirs.
 */
function elapsed(): number {
  const [wallNow, steadyNow] = [Date.now(), performance.now()];
  passed += Math.max(wallNow - wall, steadyNow - steady, 0);
  [wall, steady] = [wallNow, steadyNow];
  return passed;
}
