// Tells how large the client is in a page: bundled, minified, and compressed as servers do.

import { fileURLToPath } from "node:url";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { build } from "esbuild";

const { outputFiles } = await build({
  entryPoints: [fileURLToPath(new URL("../dist/index.js", import.meta.url))],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  write: false,
});
const code = outputFiles[0].contents;
const sizes = {
  minified: code.length,
  gzip: gzipSync(code, { level: 9 }).length,
  brotli: brotliCompressSync(code).length,
};
for (const [name, bytes] of Object.entries(sizes)) {
  console.log(`${name.padEnd(9)}${(bytes / 1000).toFixed(1).padStart(6)} KB`);
}
