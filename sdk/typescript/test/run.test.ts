import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { test } from "node:test";
import { createGzip, gzipSync } from "node:zlib";

import { Cove, InvalidError, NotSupportedError, run, runParallel, TooLargeError, UnavailableError } from "@cove-sandbox/sdk";

import { archive, entry, type Entry } from "./hostile.js";
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

test("a directory goes after what was moved out of it", async () => {
  for (const to of ["0", "z"]) { // which sort before and after it
    const dir = tempDir();
    mkdirSync(join(dir, "moved"));
    writeFileSync(join(dir, "moved", "x"), "content that is long enough to be known again\n");
    await run({ sandbox: { runtime }, in: dir, out: dir, commands: [`mv moved/x ${to} && rmdir moved`] });
    assert.deepEqual(readdirSync(dir), [to]);
  }
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

test("a project of 5,000 files goes in and out", async () => {
  const dir = tempDir();
  const names = Array.from({ length: 5_000 }, (_, i) => join(`d${i % 50}`, `f${i}`));
  Array.from({ length: 50 }, (_, i) => mkdirSync(join(dir, `d${i}`)));
  names.forEach((name) => writeFileSync(join(dir, name), `of ${name}\n`));
  const result = await run({
    sandbox: { runtime }, in: dir, out: dir,
    commands: ["find . -type f | wc -l", "find . -type f -exec sh -c 'for f; do echo more >>$f; done' sh {} +", "rm -r d49"],
  });
  assert.deepEqual(result.results.map((one) => one.exitCode), [0, 0, 0]);
  assert.equal(result.results[0]?.stdout.trim(), "5000");
  assert.equal(result.changes.length, 5_001);
  assert.equal(readdirSync(dir).length, 49);
  for (const name of names.filter((name) => !name.startsWith("d49"))) {
    assert.equal(readFileSync(join(dir, name), "utf8"), `of ${name}\nmore\n`);
  }
});

const hostile: Record<string, Entry[]> = {
  "a name that leads up": [{ name: "../escape", data: "x" }],
  "an absolute name": [{ name: "/escape", data: "x" }],
  "a file through a symlink": [{ name: "l", flag: "2", target: "/tmp" }, { name: "l/escape", data: "x" }],
  "a link to a file outside": [{ name: "h", flag: "1", target: "../../etc/passwd" }],
  "a device": [{ name: "dev", flag: "3" }],
  "a pipe": [{ name: "pipe", flag: "6" }],
};

for (const [what, entries] of Object.entries(hostile)) {
  test(`an archive with ${what} does not go in (T37, T56)`, async () => {
    await assert.rejects(run({ sandbox: { runtime }, archive: archive(...entries), commands: ["echo never"] }), InvalidError);
  });
}

test("an archive that is a bomb does not go in, and a directory that became one does not come out (T37)", async () => {
  const bomb = Readable.from((function* () {
    yield entry({ name: "bomb", size: 2 ** 32 }).subarray(0, 512);
    for (let zeros = Buffer.alloc(1 << 20), i = 0; i < 1_100; i++) {
      yield zeros;
    }
  })()).pipe(createGzip({ level: 1 }));
  await assert.rejects(run({ sandbox: { runtime }, archive: bomb, commands: ["echo never"] }), TooLargeError);
  const to = join(tempDir(), "to");
  await assert.rejects(run({ sandbox: { runtime }, out: to, commands: ["truncate -s 4G bomb"] }), TooLargeError);
  assert.equal(existsSync(to), false);
});

test("what commands made to lead out is not written here (T57)", async () => {
  const dir = tempDir();
  mkdirSync(join(dir, "to"));
  writeFileSync(join(dir, "mine"), "mine");
  const request = run({
    sandbox: { runtime }, in: join(dir, "to"), out: join(dir, "to"),
    commands: ["ln -s ../mine up; ln -s /etc/passwd abs; ln -s good inner; echo good >good; mkfifo pipe; chmod 6755 good"],
  });
  await assert.rejects(request, (err) => err instanceof NotSupportedError && /"up" is a link that leads out/.test(err.message));
  assert.deepEqual(readdirSync(join(dir, "to")).sort(), ["good", "inner"]);
  assert.equal(statSync(join(dir, "to", "good")).mode & 0o7777, 0o755);
  assert.equal(readFileSync(join(dir, "mine"), "utf8"), "mine");
});

test("an archive in a lying daemon's reply writes nothing outside (T57)", async () => {
  const dir = tempDir();
  const lies = archive({ name: "../evil", data: "x" }, { name: join(dir, "evil"), data: "x" }, { name: "l", flag: "2", target: ".." }, { name: "l/evil", data: "x" }, { name: "good", data: "x" });
  const { url } = new Impostor((request, response) => {
    request.resume();
    response.end(JSON.stringify({ results: [], changes: [], archive: gzipSync(lies).toString("base64"), patch: null }));
  });
  await assert.rejects(run({ commands: ["true"], out: join(dir, "to") }, { url }), NotSupportedError);
  assert.deepEqual([readdirSync(dir), readdirSync(join(dir, "to")).sort()], [["to"], ["good", "l"]]);
  assert.equal(statSync(join(dir, "to", "l")).isDirectory(), true);
});

test("a reply to a run that makes no sense is an error", async () => {
  let reply = "";
  const { url } = new Impostor((request, response) => {
    request.resume();
    response.end(reply);
  });
  const one = '{"command":"x","attempts":1,"pid":1,"exit_code":0,"stdout":"","stderr":"","truncated":false,"timed_out":false,"duration_ms":1}';
  for (reply of ["", "null", "[]", "{}", '{"results": [3]}', '{"results": [null]}', '{"results": [], "changes": [{}], "archive": null, "patch": null}',
    `{"results": [${one}], "changes": {}, "archive": null}`, `{"results": [${one}], "archive": 7}`,
    `{"results": [${one}], "archive": "${Buffer.from("nothing").toString("base64")}"}`, `{"results": [${one}], "archive": "${gzipSync("no tar".repeat(500)).toString("base64")}"}`]) {
    await assert.rejects(run({ commands: ["true"], out: join(tempDir(), "to") }, { url }), UnavailableError, reply);
  }
});

test("a hundred runs at once, by one client", async () => {
  let open = 0, most = 0;
  const { url } = new Impostor((request, response) => {
    most = Math.max(most, ++open);
    let sent = "";
    request.on("data", (data) => {
      sent += String(data);
    });
    request.on("end", () => setTimeout(() => {
      open--;
      const said = Buffer.from((JSON.parse(sent) as { commands: string[] }).commands[0] ?? "").toString("base64");
      response.end(JSON.stringify({ results: [{ command: "x", attempts: 1, pid: 1, exit_code: 0, stdout: said, stderr: "", truncated: false, timed_out: false, duration_ms: 1 }], changes: null, archive: null, patch: null }));
    }, 5));
  });
  const runs = await runParallel(Array.from({ length: 100 }, (_, i) => ({ commands: [`run ${i}`] })), { url, concurrency: 20 });
  assert.deepEqual(runs.map((one) => (one.status === "fulfilled" ? one.value.results[0]?.stdout : one.reason)), Array.from({ length: 100 }, (_, i) => `run ${i}`));
  assert.ok(most <= 20, `${most} at once`);
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
