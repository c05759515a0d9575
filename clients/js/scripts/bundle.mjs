// Writes the client as one file, for pages without a build step. With --check: fails where that is
// not what is there. Give another path to write to that.

import { readFileSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const TARGET = at("../../../service/edge/playground/herald-client.js");
const HEADER = `// The client for Herald as one module, for pages without a build step:
//
//   import { connect } from "./herald-client.js";
//
// Generated from clients/js by \`npm run bundle\` there; change that, not this. How it is used is told
// in clients/js/README.md.
`;

const { outputFiles } = await build({
  entryPoints: [at("../src/index.ts")],
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "inline",
  banner: { js: HEADER },
  write: false,
});
const made = outputFiles[0].text;
const [path = TARGET] = process.argv.slice(2).filter((argument) => argument !== "--check");
if (process.argv.includes("--check")) {
  let there = "";
  try {
    there = readFileSync(path, "utf8");
  } catch {
    // It is not there.
  }
  if (there !== made) {
    console.error(`${path} is not what clients/js makes: run \`npm run bundle\` in clients/js`);
    process.exit(1);
  }
} else {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, made);
}
