import assert from "node:assert/strict";
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { Sandbox, UnavailableError } from "@cove-sandbox/sdk";

import { archive, type Entry } from "./hostile.js";
import { besides, Impostor, tempDir } from "./world.js";

/** Has a daemon that lies send an archive, and downloads that. */
async function download(data: Buffer, to: string, cut = false): Promise<void> {
  const impostor = new Impostor(besides((request, response) => {
    if (request.url?.includes("/stat")) {
      response.end(JSON.stringify({ name: ".", path: "/x", type: "directory", size: 0, mode: 493, owner: "", group: "", modified_at: "2026-01-01T00:00:00Z" }));
    } else if (cut) {
      response.writeHead(200, { "Content-Length": data.length + 1000 });
      response.write(data, () => setTimeout(() => response.destroy(), 20));
    } else {
      response.end(data);
    }
  }));
  const sandbox = await Sandbox.connect("abc", { url: impostor.url });
  await sandbox.files.download("x", to);
}

const escapes: Record<string, Entry[]> = {
  "an absolute name": [{ name: "/ABS/evil", data: "x" }],
  "a name that goes up": [{ name: "../evil", data: "x" }],
  "a name that goes up from below": [{ name: "a/../../evil", data: "x" }],
  "a directory that goes up": [{ name: "../evil", flag: "5" }],
  "an absolute symlink": [{ name: "l", flag: "2", target: "OUT" }],
  "a symlink that goes up": [{ name: "l", flag: "2", target: "../evil" }],
  "a symlink that goes up by a detour": [{ name: "l", flag: "2", target: "a/../../evil" }],
  "a file through a symlink of the archive": [{ name: "l", flag: "2", target: "." }, { name: "l/../../evil", data: "x" }],
  "a file below a symlink of the archive": [{ name: "d", flag: "5" }, { name: "l", flag: "2", target: "d" }, { name: "l/x", data: "x" }],
  "a symlink by way of another": [{ name: "d/e", flag: "5" }, { name: "s", flag: "2", target: "d/e" }, { name: "s/up", flag: "2", target: "../.." }],
  "a link to a file outside": [{ name: "h", flag: "1", target: "../outside" }],
  "a link through a symlink that is there": [{ name: "h", flag: "1", target: "there/outside" }],
  "a file below a symlink that is there": [{ name: "there/evil", data: "x" }],
  "a directory where a symlink is": [{ name: "there", flag: "5", mode: 0o777 }, { name: "there/evil", data: "x" }],
  "a character device": [{ name: "dev", flag: "3" }],
  "a block device": [{ name: "dev", flag: "4" }],
  "a pipe": [{ name: "dev", flag: "6" }],
  "a name in a pax record that goes up": [{ name: "x", flag: "x", data: "16 path=../evil\n" }, { name: "ok", data: "x" }],
  "a long name of GNU that goes up": [{ name: "x", flag: "L", data: "../evil\0" }, { name: "ok", data: "x" }],
};

for (const [name, entries] of Object.entries(escapes)) {
  test(`${name} is left out, and the rest is copied (T57)`, async () => {
    const dir = tempDir();
    const outside = join(dir, "out"), to = join(dir, "to");
    mkdirSync(outside);
    mkdirSync(to);
    writeFileSync(join(outside, "outside"), "mine");
    writeFileSync(join(dir, "outside"), "mine");
    symlinkSync(outside, join(to, "there"));
    const placed = entries.map((e) => ({ ...e, name: e.name.replace("/ABS", dir), target: e.target?.replace("OUT", outside) ?? "" }));
    await assert.rejects(download(archive(...placed, { name: "good", data: "good" }), to), /left out/);
    assert.equal(readFileSync(join(to, "good"), "utf8"), "good");
    assert.equal(existsSync(join(dir, "evil")), false);
    assert.deepEqual(readdirSync(outside), ["outside"]);
    assert.deepEqual(readdirSync(dir).sort(), ["out", "outside", "to"]);
    assert.equal(lstatSync(join(dir, "outside")).nlink, 1);
    assert.equal(lstatSync(join(to, "there")).isSymbolicLink(), true);
    for (const left of ["dev", "h"]) {
      assert.equal(existsSync(join(to, left)), false);
    }
  });
}

test("a symlink that is in the way of a file is replaced, not followed (T57)", async () => {
  const dir = tempDir();
  mkdirSync(join(dir, "to"));
  writeFileSync(join(dir, "mine"), "mine");
  symlinkSync("../mine", join(dir, "to", "f"));
  await download(archive({ name: "f", data: "theirs" }), join(dir, "to"));
  assert.equal(readFileSync(join(dir, "mine"), "utf8"), "mine");
  assert.equal(readFileSync(join(dir, "to", "f"), "utf8"), "theirs");
});

const whole = archive({ name: "f", data: "x".repeat(2000) });
const wrong: Record<string, Buffer> = {
  "nothing": Buffer.alloc(0),
  "no end": whole.subarray(0, whole.length - 1024),
  "half a content": whole.subarray(0, 1024),
  "half a header": whole.subarray(0, 300),
  "a checksum that is wrong": Buffer.concat([Buffer.from("?"), whole.subarray(1)]),
  "a size that is no number": archive({ name: "f" }).fill("z", 124, 130),
  "a record longer than its header": archive({ name: "x", flag: "x", data: "99 path=x\n" }, { name: "f" }),
  "a record without a length": archive({ name: "x", flag: "x", data: "path=x\n" }, { name: "f" }),
  "a record with a zero byte": archive({ name: "x", flag: "x", data: "12 path=x\0y\n" }, { name: "f" }),
  "a record of a gigabyte": archive({ name: "x", flag: "x", size: 2 ** 30 }),
};

for (const [name, data] of Object.entries(wrong)) {
  test(`an archive with ${name} is refused`, async () => {
    await assert.rejects(download(data, join(tempDir(), "to")), UnavailableError);
  });
}

test("a download that is cut off is an error, also behind the archive's end", async () => {
  await assert.rejects(download(whole, join(tempDir(), "to"), true), UnavailableError);
});
