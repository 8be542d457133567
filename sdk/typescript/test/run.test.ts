import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { Cove, InvalidError, run, runParallel } from "@cove-sandbox/sdk";

import { Daemon, Impostor, program, runtime, tempDir } from "./world.js";

test("a directory goes in, and what all commands changed comes back into it and as a patch", async () => {
  const dir = tempDir();
  mkdirSync(join(dir, "sub"));
  writeFileSync(join(dir, "sub", "edited"), "before\n");
  writeFileSync(join(dir, "deleted"), "x\n");
  const result = await run({
    sandbox: { runtime, envs: { A: "1" } }, in: dir, out: dir, return: "patch",
    commands: ["echo after$A >sub/edited", "rm deleted; exit 3", ["sh", "-c", "printf '\\377' >.binary; chmod 755 .binary; echo said"]],
  });
  assert.deepEqual(result.results.map((one) => one.exitCode), [0, 3, 0]);
  assert.equal(result.success, false);
  assert.equal(result.results[2]?.stdout, "said\n");
  assert.deepEqual(result.changes.map((change) => `${change.kind} ${change.path}`).sort(), ["added .binary", "deleted deleted", "modified sub/edited"]);
  assert.equal(readFileSync(join(dir, "sub", "edited"), "utf8"), "after1\n");
  assert.equal(existsSync(join(dir, "deleted")), false);
  assert.deepEqual([...readFileSync(join(dir, ".binary"))], [255]);
  assert.equal(statSync(join(dir, ".binary")).mode & 0o777, 0o755);
  assert.match(result.patch ?? "", /-before\n\+after1/);
});

test("an archive goes in, and nothing has to come out; commands stop at a failure and are tried again", async () => {
  const dir = tempDir();
  writeFileSync(join(dir, "f"), "content");
  const archive = execFileSync("tar", ["cz", "-C", dir, "."]);
  const result = await run({
    sandbox: { runtime }, archive, return: "none", failFast: true, retry: { attempts: 2, backoffMs: 1 },
    commands: ["cat f", "exit 4", "echo never"],
  });
  assert.deepEqual(result.results.map((one) => [one.stdout, one.exitCode, one.attempts]), [["content", 0, 1], ["", 4, 2]]);
  assert.equal(result.archive, undefined);
  await assert.rejects(run({ commands: ["true"], archive, in: dir }), InvalidError);
});

test("several runs at once, each settled", async () => {
  const runs = await runParallel([1, 2, 0].map((i) => ({ sandbox: { runtime: i === 0 ? "no such" : runtime }, commands: [`echo ${i}`] })), { concurrency: 2 });
  assert.deepEqual(runs.map((one) => (one.status === "fulfilled" ? one.value.results[0]?.stdout : "rejected")), ["1\n", "2\n", "rejected"]);
});

test("a run for which there is no room is tried again", async () => {
  let asked = 0;
  const { url } = new Impostor((request, response) => {
    request.resume();
    if (++asked < 3) {
      response.writeHead(429, { "Retry-After": "0" });
      response.end(JSON.stringify({ error: { code: "exhausted", message: "full" } }));
    } else {
      response.end(JSON.stringify({ results: [], changes: [], archive: null, patch: null }));
    }
  });
  const [first] = await runParallel([{ commands: ["true"] }], { url });
  assert.equal(first?.status, "fulfilled");
  assert.equal(asked, 3);
});

test("changes that lead out touch nothing outside (T57)", async () => {
  const dir = tempDir();
  mkdirSync(join(dir, "to"));
  mkdirSync(join(dir, "away"));
  writeFileSync(join(dir, "away", "f"), "mine");
  symlinkSync("../away", join(dir, "to", "link"));
  const gone = (path: string) => ({ path, kind: "deleted", type: "file", mode: "0644" });
  const { url } = new Impostor((request, response) => {
    request.resume();
    response.end(JSON.stringify({ results: [], changes: ["../away/f", "link/f", join(dir, "away", "f"), "a/../../away/f", "."].map(gone), archive: null, patch: null }));
  });
  await run({ commands: ["true"], out: join(dir, "to") }, { url });
  assert.equal(readFileSync(join(dir, "away", "f"), "utf8"), "mine");
  rmSync(join(dir, "to"), { recursive: true });
});

test("over the network a key is needed, and sees its owner's sandboxes alone", async () => {
  await using daemon = new Daemon(["--listen", "127.0.0.1:0"]);
  await daemon.start();
  const address = await daemon.address();
  const env = { ...process.env, COVE_URL: daemon.url };
  const key = (name: string): string => execFileSync(program(), ["key", "create", name], { env, encoding: "utf8" }).match(/cove_[\w-]+/)?.[0] ?? "";
  const mine = new Cove({ url: address, apiKey: key("mine") }), theirs = new Cove({ url: address, apiKey: key("theirs") });
  await assert.rejects(new Cove({ url: address, apiKey: "" }).list(), { code: "unauthenticated" });
  await assert.rejects(new Cove({ url: address, apiKey: key("mine2").slice(0, -2) + "xx" }).list(), { code: "unauthenticated" });
  const sandbox = await mine.create({ runtime });
  assert.equal((await sandbox.commands.run("echo over the network")).stdout, "over the network\n");
  const pty = await sandbox.pty.create({ command: ["sh", "-c", "exit 3"] });
  assert.equal((await pty.wait()).code, 3);
  await assert.rejects(theirs.connect(sandbox.id), { code: "not_found" });
  assert.deepEqual(await theirs.list(), []);
  await sandbox.kill();
});
