import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { ForbiddenError, GoneError, InvalidError, NotFoundError, NotSupportedError, Sandbox, type FileEvent } from "@cove-sandbox/sdk";

import { all, create, tempDir, until } from "./world.js";

let sandbox: Sandbox;
before(async () => {
  sandbox = await create();
});
after(() => sandbox.kill());

test("text, bytes, blobs and streams are written, and read back in each form", async () => {
  const { files } = sandbox;
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i & 0xff);
  const info = await files.write("dir/sub/héllo wörld?#%.txt", "\ufeffgrüße", { mode: 0o750 });
  assert.equal(info.path, "/workspace/dir/sub/héllo wörld?#%.txt");
  assert.equal(info.mode, 0o750);
  assert.ok(info.modifiedAt instanceof Date);
  assert.equal(await files.read(info.path), "\ufeffgrüße");
  const inputs = [bytes, bytes.slice().buffer, new Blob([bytes]), new Blob([bytes]).stream(), (async function* () {
    yield bytes.subarray(0, 1);
    yield bytes.subarray(1);
  })()];
  for (const input of inputs) {
    await files.write("b", input as Uint8Array);
    assert.deepEqual(await files.read("b", { format: "bytes" }), bytes);
  }
  const stream = await files.read("b", { format: "stream" });
  assert.deepEqual(new Uint8Array(Buffer.concat(await all(stream))), bytes);
  await files.write("empty", "");
  assert.equal(await files.read("empty"), "");
});

test("a large file goes both ways as a stream", async () => {
  const piece = Buffer.alloc(1 << 20, "0123456789abcdef");
  await sandbox.files.write("large", (async function* () {
    for (let i = 0; i < 40; i++) {
      yield piece;
    }
  })());
  assert.equal((await sandbox.files.getInfo("large")).size, 40 << 20);
  let size = 0;
  for await (const part of await sandbox.files.read("large", { format: "stream" })) {
    size += part.length;
  }
  assert.equal(size, 40 << 20);
  await sandbox.files.remove("large");
});

test("a stream that fails leaves no whole file and is the error", async () => {
  await assert.rejects(sandbox.files.write("half", (async function* () {
    yield "x".repeat(100_000);
    throw new Error("no more");
  })()), /no more/);
  assert.equal(await sandbox.files.exists("half"), false);
});

test("several files at once, listed, moved and removed", async () => {
  const { files } = sandbox;
  const written = await files.writeFiles(Array.from({ length: 20 }, (_, i) => ({ path: `many/${i}`, data: String(i) })));
  assert.deepEqual(written.map((info) => info.name), Array.from({ length: 20 }, (_, i) => String(i)));
  assert.equal((await files.list("many")).length, 20);
  assert.equal(await files.makeDir("many/deep/er"), true);
  assert.equal(await files.makeDir("many/deep/er"), false);
  await files.write("many/deep/er/x", "x");
  assert.equal((await files.list("many")).length, 21);
  assert.equal((await files.list("many", { depth: 3 })).length, 23);
  await files.rename("many/deep", "moved/here");
  assert.equal(await files.read("moved/here/er/x"), "x");
  assert.equal(await files.exists("many/deep"), false);
  await files.remove("many");
  await files.remove("many");
  assert.equal(await files.exists("many"), false);
  assert.equal((await files.getInfo("moved")).type, "directory");
});

test("a makeDir where a file is in the way is an error", async () => {
  await sandbox.files.write("file", "");
  await assert.rejects(sandbox.files.makeDir("file"));
});

test("errors have classes and hints", async () => {
  await assert.rejects(sandbox.files.read("nope"), (err) => err instanceof NotFoundError && err.message.includes(err.hint ?? "?"));
  await assert.rejects(sandbox.files.write("/etc/nope", "x"), ForbiddenError);
  await assert.rejects(sandbox.files.read(""), InvalidError);
  await assert.rejects(sandbox.files.write("x", 7 as unknown as string), InvalidError);
  await assert.rejects(sandbox.files.read("x", { signal: AbortSignal.abort() }), { name: "AbortError" });
  const gone = await create();
  await gone.kill();
  await assert.rejects(gone.files.exists("x"), GoneError);
});

test("files are another user's where that is asked for", async () => {
  const info = await sandbox.files.write("/root/secret", "x", { user: "root" });
  assert.equal(info.owner, "root");
  assert.equal(await sandbox.files.read("/root/secret", { user: "root" }), "x");
});

test("a watch tells what happens, to a callback and to an iteration", async () => {
  await sandbox.files.makeDir("watched/deep");
  const events: FileEvent[] = [];
  const watch = await sandbox.files.watchDir("watched", (event) => events.push(event), { recursive: true });
  await sandbox.files.write("watched/deep/a", "1");
  await until(() => events.some((event) => event.name === "deep/a" && event.type === "create"));
  watch.stop();
  const iterated = await sandbox.files.watchDir("watched");
  await sandbox.files.write("watched/b", "1");
  for await (const event of iterated) {
    if (event.name === "b") {
      break;
    }
  }
  iterated.stop();
});

test("a folder goes up and down whole", async () => {
  const from = join(tempDir(), "from"), to = join(tempDir(), "to");
  const deep = join("d".repeat(60), "e".repeat(60), "f".repeat(60), "ü".repeat(40));
  mkdirSync(join(from, deep), { recursive: true });
  mkdirSync(join(from, "empty"));
  writeFileSync(join(from, deep, "leaf"), "leaf");
  writeFileSync(join(from, ".dot"), Buffer.alloc(3000, 0xff));
  writeFileSync(join(from, "run.sh"), "#!/bin/sh\n");
  chmodSync(join(from, "run.sh"), 0o755);
  utimesSync(join(from, ".dot"), 1_000_000_000, 1_000_000_000);
  symlinkSync("../run.sh", join(from, "empty", "link"));
  for (let i = 0; i < 300; i++) {
    writeFileSync(join(from, `f${i}`), String(i));
  }
  await sandbox.files.upload(from, "tree");
  const seen = await sandbox.commands.run("cd tree && cat .dot | wc -c && stat -c %a run.sh && readlink empty/link && find . -name leaf | wc -l && ls | wc -l");
  assert.equal(seen.stdout, "3000\n755\n../run.sh\n1\n303\n");
  await sandbox.files.download("tree", to);
  execFileSync("diff", ["-r", "--no-dereference", from, to]);
  assert.equal(statSync(join(to, "run.sh")).mode & 0o777, 0o755);
  assert.equal(statSync(join(to, ".dot")).mtime.getTime(), 1_000_000_000_000);
  assert.equal(readlinkSync(join(to, "empty", "link")), "../run.sh");
});

test("a file goes up and down, to a name or into a directory", async () => {
  const dir = tempDir();
  writeFileSync(join(dir, "one"), "1", { mode: 0o700 });
  await sandbox.files.upload(join(dir, "one"), "up/two");
  assert.equal((await sandbox.files.getInfo("up/two")).mode, 0o700);
  await sandbox.files.upload(join(dir, "one"), "up");
  await sandbox.files.upload(join(dir, "one"), "up/new/");
  assert.deepEqual((await sandbox.files.list("up", { depth: 2 })).map((info) => info.path).sort(), ["/workspace/up/new", "/workspace/up/new/one", "/workspace/up/one", "/workspace/up/two"]);
  await sandbox.files.download("up/two", join(dir, "down", "three"));
  await sandbox.files.download("up/two", dir);
  assert.equal(readFileSync(join(dir, "down", "three"), "utf8") + readFileSync(join(dir, "two"), "utf8"), "11");
  assert.deepEqual(readdirSync(join(dir, "down")), ["three"]);
  await assert.rejects(sandbox.files.upload(join(dir, "nope"), "x"), NotFoundError);
  await assert.rejects(sandbox.files.download("nope", join(dir, "x")), NotFoundError);
  assert.equal(existsSync(join(dir, "x")), false);
});

test("what is hostile inside does not get out (T57)", async () => {
  const dir = tempDir();
  const to = join(dir, "to");
  await sandbox.commands.run("mkdir -p evil/sub && cd evil && ln -s /etc/passwd abs && ln -s ../../.. up && ln -s sub inner && mkfifo pipe && echo x >sub/x && ln sub/x hard && chmod 4755 sub/x", { check: true });
  await assert.rejects(sandbox.files.download("evil", to), (err) => {
    assert.ok(err instanceof NotSupportedError);
    assert.match(err.message, /"abs" is a link that leads out/);
    assert.match(err.message, /"up" is a link that leads out/);
    return true;
  });
  assert.deepEqual(readdirSync(to).sort(), ["hard", "inner", "sub"]);
  assert.equal(lstatSync(join(to, "sub", "x")).mode & 0o7777, 0o755);
  assert.equal(readFileSync(join(to, "hard"), "utf8"), "x\n");
});
