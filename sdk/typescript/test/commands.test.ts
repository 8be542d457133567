import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { CommandExitError, InvalidError, NotFoundError, type Sandbox } from "@cove-sandbox/sdk";

import { all, create, until } from "./world.js";

let sandbox: Sandbox;
before(async () => {
  sandbox = await create({ env: { FROM: "spec" } });
});
after(() => sandbox.kill());

test("a command's output, code and duration come back", async () => {
  const result = await sandbox.commands.run("echo out; echo err >&2; exit 3");
  assert.equal(result.stdout, "out\n");
  assert.equal(result.stderr, "err\n");
  assert.equal(result.exitCode, 3);
  assert.equal(result.success, false);
  assert.equal(result.timedOut, false);
  assert.equal(result.truncated, false);
  assert.ok(result.duration > 0 && result.pid > 0);
});

test("environment, directory and user are the command's own, under both names", async () => {
  for (const options of [
    { envs: { A: "é 'x'" }, cwd: "/tmp", user: "1234:1234" },
    { env: { A: "é 'x'" }, workdir: "/tmp", user: "1234:1234" },
  ]) {
    const result = await sandbox.commands.run('echo "$FROM $A $PWD $(id -u)"', options);
    assert.equal(result.stdout, "spec é 'x' /tmp 1234\n");
  }
});

test("no shell sees an array", async () => {
  const result = await sandbox.exec(["printf", "%s|", "a b", "$HOME", "*"]);
  assert.equal(result.stdout, "a b|$HOME|*|");
});

test("bytes stay bytes, in and out", async () => {
  const data = Uint8Array.from({ length: 70_000 }, (_, i) => (i * 7) & 0xff);
  const result = await sandbox.commands.run("cat", { stdin: data });
  assert.deepEqual(result.stdoutBytes, data);
});

test("input is streamed, however long it is", async () => {
  const piece = new Uint8Array(256 << 10).fill(65);
  async function* source() {
    for (let i = 0; i < 12; i++) {
      yield piece;
    }
    yield "é";
  }
  const result = await sandbox.commands.run("wc -c", { stdin: source() });
  assert.equal(result.stdout.trim(), String(12 * piece.length + 2));
});

test("a source of input that fails kills the command and is the error", async () => {
  async function* source() {
    yield "x";
    throw new Error("the disk is on fire");
  }
  await assert.rejects(sandbox.commands.run("cat; sleep 100", { stdin: source() }), /the disk is on fire/);
});

test("a command that reads no input does not hang", async () => {
  const result = await sandbox.commands.run("true", { stdin: new Uint8Array(3 << 20) });
  assert.equal(result.exitCode, 0);
});

test("the first piece arrives while the command runs", async () => {
  let release: (value: unknown) => void = () => undefined;
  const seen = new Promise((done) => {
    release = done;
  });
  const running = sandbox.commands.run("echo first; while [ ! -e go ]; do sleep 0.05; done; echo second", { onStdout: release });
  assert.equal(await seen, "first\n");
  await sandbox.files.write("go", "");
  assert.equal((await running).stdout, "first\nsecond\n");
});

test("characters survive the borders of chunks", async () => {
  const pieces: string[] = [];
  const bytes: Uint8Array[] = [];
  const result = await sandbox.commands.run(`printf '\\342\\202'; sleep 0.2; printf '\\254\\360\\237'; sleep 0.2; printf '\\230\\200\\377'; sleep 0.1; printf '\\342'`, {
    onStdout: (text, data) => {
      pieces.push(text);
      bytes.push(data);
    },
  });
  assert.equal(pieces.join(""), "€😀\ufffd\ufffd");
  assert.equal(result.stdout, "€😀\ufffd\ufffd");
  assert.equal(Buffer.concat(bytes).toString("hex"), "e282acf09f9880ffe2");
});

test("a callback that throws kills the command and is the error", async () => {
  await assert.rejects(sandbox.commands.run("echo $$ > pid; echo x; sleep 100", {
    onStdout: () => {
      throw new RangeError("enough");
    },
  }), RangeError);
  await until(async () => (await sandbox.commands.run("kill -0 $(cat pid) 2>/dev/null")).exitCode !== 0);
});

test("check throws what the command said", async () => {
  const failing = sandbox.commands.run("echo some; echo why >&2; exit 7", { check: true });
  await assert.rejects(failing, (err) => {
    assert.ok(err instanceof CommandExitError);
    assert.equal(err.exitCode, 7);
    assert.equal(err.result.stdout, "some\n");
    assert.match(err.message, /exit status 7: why/);
    return true;
  });
  assert.equal((await sandbox.commands.run("true", { check: true })).exitCode, 0);
});

test("a timeout kills and is told", async () => {
  const result = await sandbox.commands.run("echo begun; sleep 100", { timeoutMs: 300 });
  assert.equal(result.timedOut, true);
  assert.equal(result.success, false);
  assert.equal(result.stdout, "begun\n");
  await assert.rejects(sandbox.commands.run("sleep 100", { timeoutMs: 100, check: true }), /timed out/);
});

test("aborting kills the command and throws the signal's reason", async () => {
  const stop = new AbortController();
  const reason = new Error("changed my mind");
  const running = sandbox.commands.run("echo $$ > pid2; echo x; sleep 100", { signal: stop.signal, onStdout: () => stop.abort(reason) });
  await assert.rejects(running, (err) => err === reason);
  await until(async () => (await sandbox.commands.run("kill -0 $(cat pid2) 2>/dev/null")).exitCode !== 0);
  await assert.rejects(sandbox.commands.run("true", { signal: AbortSignal.abort() }), { name: "AbortError" });
});

test("output beyond the limit is cut in the middle, between characters", async () => {
  const result = await sandbox.commands.run("for i in $(seq 400); do printf '€'; done; echo; echo end", { maxOutput: 100 });
  assert.equal(result.truncated, true);
  assert.ok(result.stdoutBytes.length <= 100);
  assert.match(result.stdout, /^€+\nend\n$/);
  const whole = await sandbox.commands.run("head -c 100 /dev/zero", { maxOutput: 100 });
  assert.equal(whole.truncated, false);
  assert.equal(whole.stdoutBytes.length, 100);
});

test("a program that is not there", async () => {
  await assert.rejects(sandbox.exec(["no-such-program"]), (err) => err instanceof InvalidError && err.exitCode === 127);
});

test("what is no command is refused here", async () => {
  for (const wrong of ["", [], [1], undefined, 7]) {
    await assert.rejects(sandbox.commands.run(wrong as string), InvalidError);
  }
  await assert.rejects(sandbox.commands.run("cat", { stdin: true }), /background/);
  await assert.rejects(sandbox.commands.run("cat", { stdin: 5 as unknown as string }), InvalidError);
  await assert.rejects(sandbox.commands.connect(0), InvalidError);
});

test("a background command is iterated, waited for and killed", async () => {
  const handle = await sandbox.commands.run("echo 1; echo 2 >&2; exit 4", { background: true });
  const chunks = await all(handle);
  assert.equal(chunks.filter((c) => c.stream === "stdout").map((c) => c.text).join(""), "1\n");
  assert.equal(chunks.filter((c) => c.stream === "stderr").map((c) => c.text).join(""), "2\n");
  assert.equal((await handle.wait()).exitCode, 4);
  await assert.rejects(handle.wait({ check: true }), CommandExitError);
  assert.equal((await all(handle.stdout)).join(""), "1\n");
  assert.equal((await all(handle.stderr.stream())).join(""), "2\n");

  const long = await sandbox.commands.run("sleep 1000 & sleep 1000", { background: true });
  assert.equal((await long.getInfo()).running, true);
  await assert.rejects(long.wait({ signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
  assert.equal(await long.kill(), true);
  assert.equal((await long.wait()).exitCode, -1);
  assert.equal(await sandbox.commands.kill(999_999), false);
});

test("standard input of a background command", async () => {
  const said: string[] = [];
  const handle = await sandbox.commands.run("read a; echo got $a; cat", { background: true, stdin: true, onStdout: (text) => said.push(text) });
  await handle.sendStdin("one\n");
  await until(() => said.join("") === "got one\n");
  await sandbox.commands.sendStdin(handle.pid, "two\n");
  await handle.closeStdin();
  assert.equal((await handle.wait()).stdout, "got one\ntwo\n");
  const fed = await sandbox.commands.run("cat", { background: true, stdin: "all of it" });
  assert.equal((await fed.wait()).stdout, "all of it");
});

test("reconnecting by pid reads everything again", async () => {
  const first = await sandbox.commands.run("echo before; read x; echo after", { background: true, stdin: true, tag: "again" });
  const found = (await sandbox.commands.list()).find((process) => process.tag === "again");
  assert.equal(found?.pid, first.pid);
  assert.ok(found.startedAt instanceof Date);
  const again = await sandbox.commands.connect(first.pid);
  await again.sendStdin("\n");
  assert.equal((await again.wait()).stdout, "before\nafter\n");
  await assert.rejects(sandbox.commands.connect(999_999), NotFoundError);
});

test("a signal reaches the process", async () => {
  const handle = await sandbox.commands.run("trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done", { background: true });
  for await (const text of handle.stdout) {
    if (text.includes("ready")) {
      break;
    }
  }
  await handle.sendSignal("USR1");
  assert.equal((await handle.wait()).exitCode, 9);
});

test("many at once", async () => {
  const results = await Promise.all(Array.from({ length: 40 }, (_, i) => sandbox.commands.run(`echo ${i}`)));
  assert.deepEqual(results.map((r) => r.stdout.trim()), Array.from({ length: 40 }, (_, i) => String(i)));
});
