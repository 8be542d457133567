import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { NotFoundError, type Sandbox } from "@cove-sandbox/sdk";

import { all, create, until } from "./world.js";

let sandbox: Sandbox;
before(async () => {
  sandbox = await create();
});
after(() => sandbox.kill());

const text = (pieces: Uint8Array[]): string => Buffer.concat(pieces).toString();

test("a shell in a terminal is typed into, resized and left", async () => {
  const shown: Uint8Array[] = [];
  const pty = await sandbox.pty.create({ cols: 91, rows: 33, envs: { PS1: "" }, onData: (data) => shown.push(data) });
  await pty.write("stty size; echo é$((6*7))\n");
  await until(() => /33 91[^]*é42/.test(text(shown)));
  await pty.resize({ cols: 100, rows: 50 });
  await pty.sendInput("stty size\n");
  await until(() => text(shown).includes("50 100"));
  await sandbox.pty.resize(pty.pid, { cols: 101, rows: 51 });
  await sandbox.pty.sendInput(pty.pid, "stty size; exit 6\n");
  assert.equal((await pty.wait()).code, 6);
  assert.match(text(shown), /51 101/);
});

test("what a command shows is iterated over until it ends", async () => {
  const pty = await sandbox.pty.create({ command: ["sh", "-c", "test -t 0 && echo a terminal; exit 2"] });
  assert.match(text(await all(pty)), /a terminal/);
  assert.equal(pty.exit?.code, 2);
  assert.equal((await pty.wait()).code, 2);
});

test("a large paste arrives whole", async () => {
  const pty = await sandbox.pty.create({ command: ["sh", "-c", "stty raw -echo; echo ready; head -c 200000 | cksum"] });
  const shown: Uint8Array[] = [];
  let pasting: Promise<void> | undefined;
  for await (const data of pty) {
    shown.push(data);
    if (pasting === undefined && text(shown).includes("ready")) {
      pasting = pty.write(Buffer.alloc(200_000, "0123456789"));
    }
  }
  await pasting;
  assert.match(text(shown), / 200000/);
});

test("one leaves, and another connects to what was shown", async () => {
  const pty = await sandbox.pty.create({ command: ["sh", "-c", "echo first; read x; echo got $x"] });
  await pty.disconnect();
  const again = await sandbox.pty.connect(pty.pid, { from: "start" });
  await again.write("second\n");
  assert.match(text(await all(again)), /first[^]*got second/);
  await assert.rejects(sandbox.pty.connect(999_999), NotFoundError);
});

test("killing and aborting", async () => {
  const stop = new AbortController();
  const pty = await sandbox.pty.create({ command: ["sleep", "1000"] });
  const second = await sandbox.pty.connect(pty.pid, { signal: stop.signal });
  const reading = all(second);
  stop.abort(new Error("enough"));
  await assert.rejects(reading, /enough/);
  assert.equal(await pty.kill(), true);
  assert.equal((await pty.wait()).code, -1);
});
