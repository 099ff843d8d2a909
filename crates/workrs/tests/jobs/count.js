// Counts in a timer and in promises, with a growing map.
const { setTimeout: sleep } = require("node:timers/promises");
const { createHash } = require("node:crypto");
const { appendFile } = require("node:fs/promises");

async function main() {
  const steps = Number(process.env.STEPS);
  const pause = Number(process.env.PAUSE) * 1000;
  const seen = new Map();
  for (let n = 1; n <= steps; n++) {
    seen.set(n, createHash("sha256").update(`${n}-${seen.get(n - 1)}`).digest("hex"));
    console.log(n, seen.get(n).slice(0, 16));
    await appendFile("lines", `${n}\n`);
    await sleep(pause);
  }
  console.log("entries", seen.size);
}

main();
