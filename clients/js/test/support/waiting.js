// Waiting for conditions, never for times.

import { setTimeout as sleep } from "node:timers/promises";

/** Milliseconds: generous, because the machine may be busy; what holds is seen at once. */
export const PATIENCE = 60_000;

/** Waits until `condition` gives something true, and gives that back. */
export async function until(condition, what = condition.toString(), patience = PATIENCE) {
  const deadline = Date.now() + patience;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`did not come true: ${what}`);
    await sleep(10);
  }
}

export { sleep };
