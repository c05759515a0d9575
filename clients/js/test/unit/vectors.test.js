// The protocol core against openapi/vectors/client/*.json.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fromRecord, parsePosition, toRecord } from "../../dist/position.js";
import { Protocol } from "../../dist/protocol.js";

const folder = new URL("../../../../openapi/vectors/client/", import.meta.url);
const INPUTS = {
  opened: (core) => core.opened(),
  receive: (core, message, now) => core.receive(message, now),
  lost: (core, loss) => core.lost(loss),
  retry: (core) => core.retry(),
  token: (core, token) => core.token(token),
  token_failed: (core, _, now) => core.tokenFailed(now),
  refresh_due: (core) => core.refreshDue(),
  silent_for: (core, seconds) => core.silentFor(seconds),
  subscribe: (core, topic, _, step) => core.subscribe(topic, parsePosition(step.position)),
  unsubscribe: (core, topic) => core.unsubscribe(topic),
  close: (core) => core.close(),
};
const OUTPUTS = new Set(
  "sends events gaps errors state why positions wait asks_token drops refresh_in now".split(" "),
);

/** As JSON sees it: objects without prototypes and keys that are undefined are no matter. */
const plain = (value) => JSON.parse(JSON.stringify(value));

function check(core, step, effects) {
  for (const kind of ["sends", "events", "gaps", "errors"]) {
    assert.deepEqual(plain(effects[kind]), step[kind] ?? [], kind);
  }
  assert.equal(effects.asksToken, step.asks_token ?? false, "asks_token");
  assert.equal(effects.drops, step.drops ?? false, "drops");
  if ("state" in step) assert.equal(core.state, step.state);
  if ("why" in step) assert.equal(core.why, step.why);
  if ("positions" in step) assert.deepEqual(plain(toRecord(core.positions)), step.positions);
  if ("wait" in step) assert.deepEqual(effects.wait, step.wait);
  if ("refresh_in" in step) {
    const { least, most } = step.refresh_in;
    assert.ok(effects.refreshIn >= least && effects.refreshIn <= most, `${effects.refreshIn}`);
  }
}

const files = readdirSync(folder).filter((name) => name.endsWith(".json"));
assert.ok(files.length > 0, "there are no vectors");
for (const file of files) {
  const { vectors } = JSON.parse(readFileSync(new URL(file, folder), "utf8"));
  assert.ok(vectors.length > 0, file);
  for (const { name, given, steps } of vectors) {
    test(`${file}: ${name}`, () => {
      const core = new Protocol(given?.topics, fromRecord(given?.positions), "t1");
      for (const [number, step] of steps.entries()) {
        const input = Object.keys(step).find((key) => key in INPUTS);
        assert.ok(input, `step ${number} has no input that is known`);
        for (const key of Object.keys(step)) {
          const known = key === input || OUTPUTS.has(key) || (key === "position" && input === "subscribe");
          assert.ok(known, `step ${number} has the key ${key}`);
        }
        try {
          check(core, step, INPUTS[input](core, step[input], step.now ?? 0, step));
        } catch (error) {
          error.message = `step ${number} ${JSON.stringify(step)}: ${error.message}`;
          throw error;
        }
      }
    });
  }
}
