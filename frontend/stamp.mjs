// Records what the built assets were made from, so that a test can say when they are stale, without node.
// sources.json: { "sha256": of every source's name and bytes, in the order of their names }.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const files = [];
const walk = (folder) => {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name).replaceAll("\\", "/");
    if (entry.isDirectory()) walk(path);
    else files.push(path);
  }
};
walk("src");
walk("public");
for (const name of ["../src/duomem/report_assets/tokens.css", "package.json", "package-lock.json", "vite.config.ts", "tsconfig.json"]) files.push(name);
files.sort((a, b) => (a < b ? -1 : 1));

const hash = createHash("sha256");
for (const file of files) hash.update(`${file}\n`).update(readFileSync(file));
writeFileSync("../src/duomem/ui/static/sources.json", JSON.stringify({ sha256: hash.digest("hex") }) + "\n");
