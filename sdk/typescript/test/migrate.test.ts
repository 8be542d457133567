import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { CommandExitError, Sandbox, type FileEvent } from "@cove-sandbox/sdk";

import { create, until } from "./world.js";

// What docs/migrate/e2b.md says in place of E2B's calls, row by row.

let sandbox: Sandbox;
before(async () => {
  sandbox = await create();
});
after(() => sandbox.kill());

test("create takes one argument, and a network is named", async () => {
  const one = await create({ image: "host", timeoutMs: 600_000, envs: { A: "1" }, metadata: { job: "7" }, network: { allow: ["pip"] } });
  try {
    assert.equal((await one.commands.run("echo $A")).stdout, "1\n");
    assert.deepEqual((await one.getInfo()).spec.labels, { job: "7" });
    assert.deepEqual((await one.network.get()).network.allow, ["pip"]);
    await one.network.set({ allow: ["example.org"] });
    assert.deepEqual((await one.network.get()).network.allow, ["example.org"]);
  } finally {
    await one.kill();
  }
  await using open = await create({ network: true });
  assert.equal((await open.network.get()).network.mode, "open");
});

test("connect extends a life, and never shortens it; kill takes an id", async () => {
  const one = await create({ timeoutMs: 600_000 });
  const end = async (timeoutMs: number): Promise<number> => (await (await Sandbox.connect(one.id, { timeoutMs })).getInfo()).expiresAt?.getTime() ?? 0;
  const as = await end(1000);
  assert.ok(as > Date.now() + 5000);
  assert.ok((await end(7_200_000)) > as);
  assert.equal(await Sandbox.kill(one.id), true);
  assert.equal(await one.isRunning(), false);
});

test("getHost and getMetrics have their counterparts", async () => {
  await sandbox.commands.run("python3 -m http.server 8000", { background: true, cwd: "/usr" });
  await sandbox.waitForPort(8000);
  const host = await sandbox.getHost(8000);
  assert.match(await (await fetch(`http://${host}/`)).text(), /bin/);
  assert.equal(new URL(await sandbox.getUrl(8000)).host, host);
  assert.ok(((await sandbox.stats()).memory ?? 0) > 0);
  for await (const stats of sandbox.watchStats({ intervalMs: 100 })) {
    assert.ok((stats.memory ?? 0) > 0);
    break;
  }
});

test("commands run with the same options, and raise when they are to", async () => {
  const told: string[] = [];
  const options = { envs: { A: "1" }, cwd: "/tmp", user: "user", timeoutMs: 60_000, onStdout: (text: string) => void told.push(text), onStderr: (text: string) => void told.push(text) };
  const result = await sandbox.commands.run("echo $A $PWD; sleep 0.2; echo err >&2; exit 3", options);
  assert.equal(result.exitCode, 3);
  assert.deepEqual(told, ["1 /tmp\n", "err\n"]);
  const handle = await sandbox.commands.run("echo so", { background: true });
  assert.equal((await handle.wait()).stdout, "so\n");
  await assert.rejects(sandbox.commands.run("echo why >&2; exit 4", { check: true }), (err) => err instanceof CommandExitError && err.result.stderr === "why\n");
});

test("files are read and watched, and terminals are typed into", async () => {
  await sandbox.files.makeDir("/tmp/watched");
  const events: FileEvent[] = [];
  const watch = await sandbox.files.watchDir("/tmp/watched", (event) => events.push(event));
  await sandbox.files.write("/tmp/watched/x", "1");
  await until(() => events.some((event) => event.name === "x"));
  await watch.stop();
  assert.equal(await sandbox.files.read("/tmp/watched/x"), "1");
  assert.deepEqual([...(await sandbox.files.read("/tmp/watched/x", { format: "bytes" }))], [0x31]);

  const shown: Uint8Array[] = [];
  const pty = await sandbox.pty.create({ cols: 90, rows: 30, onData: (data) => void shown.push(data) });
  await sandbox.pty.resize(pty.pid, { cols: 80, rows: 25 });
  await sandbox.pty.sendInput(pty.pid, "stty size\n");
  await until(() => Buffer.concat(shown).includes("25 80"));
  assert.equal(await sandbox.pty.kill(pty.pid), true);
});
