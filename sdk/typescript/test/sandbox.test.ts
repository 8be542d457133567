import assert from "node:assert/strict";
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { ConflictError, Cove, CoveError, GoneError, InvalidError, NotFoundError, Sandbox, UnavailableError, type SandboxEvent, type Stats } from "@cove-sandbox/sdk";

import { all, create, runtime, tempDir, until } from "./world.js";

let sandbox: Sandbox;
const name = `ts-${process.pid}`;
before(async () => {
  sandbox = await create({
    name, metadata: { suite: name }, limits: { cpu: 0.5, memory: "256m", pids: 100 }, envs: { A: "1" }, cwd: "/tmp", commandTimeoutMs: 60_000,
  });
});
after(() => sandbox.kill());

test("a sandbox is what was asked for", async () => {
  assert.equal(sandbox.info.runtime, runtime);
  assert.equal(sandbox.info.spec.limits?.cpus, 0.5);
  assert.equal(sandbox.info.spec.limits?.memory, 256 << 20);
  assert.equal(sandbox.info.spec.timeout, 60);
  assert.deepEqual(sandbox.info.spec.env, { A: "1" });
  assert.ok(sandbox.info.createdAt instanceof Date);
  assert.equal((await sandbox.commands.run("echo $A $PWD")).stdout, "1 /tmp\n");
  assert.equal(sandbox.sandboxId, sandbox.id);
});

test("it is listed by labels, and found by id and name", async () => {
  const found = await Sandbox.list({ labels: { suite: name }, state: "running" });
  assert.deepEqual(found.map((info) => info.id), [sandbox.id]);
  assert.deepEqual(await Sandbox.list({ metadata: { suite: "nobody's" } }), []);
  for (const key of [sandbox.id, name]) {
    const again = await Sandbox.connect(key);
    assert.equal(again.id, sandbox.id);
    assert.equal((await again.commands.run("echo hi")).stdout, "hi\n");
  }
  await assert.rejects(Sandbox.connect("no-such"), NotFoundError);
  await assert.rejects(Sandbox.connect(".."), NotFoundError);
  await assert.rejects(Sandbox.connect(""), InvalidError);
});

test("its name is taken, unless it is to be reused", async () => {
  await assert.rejects(create({ name }), ConflictError);
  const options = { name: `${name}-reused`, reuse: true };
  const one = await create(options);
  const two = await create(options);
  assert.equal(one.id, two.id);
  assert.equal(await Sandbox.kill(options.name), true);
  assert.equal(await Sandbox.kill(options.name), false);
});

test("a wrong spec is refused with what is wrong", async () => {
  await assert.rejects(create({ runtime: "no such" }), (err) => err instanceof InvalidError && err.hint !== undefined);
  await assert.rejects(create({ limits: { cpu: 1, cpus: 2 } }), InvalidError);
});

test("await using kills it, and a killed one is refused here", async () => {
  let inner: Sandbox;
  {
    await using made = await create();
    inner = made;
    assert.equal(await made.isRunning(), true);
  }
  await assert.rejects(inner.commands.run("true"), GoneError);
  await inner.kill();
  assert.deepEqual((await Sandbox.list()).filter((info) => info.id === inner.id), []);
});

test("its time can be changed", async () => {
  const made = await create({ timeoutMs: 5_000 });
  assert.ok((made.info.expiresAt?.getTime() ?? Infinity) < Date.now() + 30_000);
  await made.setTimeout(600_000);
  await made.detach();
  const left = ((await made.getInfo()).expiresAt?.getTime() ?? 0) - Date.now();
  assert.ok(left > 500_000 && left <= 600_000, `${left} ms left`);
  await made.setTimeout(0);
  assert.equal((await made.getInfo()).expiresAt, undefined);
  await made.setLabels({ a: "b" });
  assert.deepEqual(made.info.spec.labels, { a: "b" });
  await made.kill();
});

test("connecting with a time extends it, and never makes it shorter", async () => {
  const made = await create({ keep: true, timeoutMs: 60_000 });
  const left = async (timeoutMs: number): Promise<number> => ((await Sandbox.connect(made.id, { timeoutMs })).info.expiresAt?.getTime() ?? Infinity) - Date.now();
  assert.ok(await left(1_000) > 30_000);
  const longer = await left(600_000);
  assert.ok(longer > 590_000 && longer <= 600_000, `${longer} ms left`);
  assert.ok(await left(60_000) > 580_000);
  assert.equal(await left(0), Infinity);
  assert.equal(await left(60_000), Infinity);
  assert.equal(await Sandbox.kill(made.id), true);
  assert.equal(await Sandbox.kill(made.id), false);
});

test("a sandbox that another one kills ends what waits for it", async () => {
  const made = await create();
  let begun: (value: unknown) => void = () => undefined;
  const output = new Promise((done) => {
    begun = done;
  });
  const pty = await made.pty.create({ command: ["sleep", "1000"] });
  const waiting = [
    made.commands.run("echo x; sleep 1000", { onStdout: begun }), (await made.commands.run("sleep 1000", { background: true })).wait(),
    pty.wait(), all(await made.files.watchDir(".")), all(made.watchStats()), made.tools.shell({ command: "sleep 1000" }),
  ];
  const settled = Promise.allSettled(waiting);
  await output;
  await Sandbox.kill(made.id);
  for (const one of await settled) {
    // A command may have been seen to die; all else is an error.
    assert.ok(one.status === "rejected" ? one.reason instanceof CoveError : one.value !== undefined, JSON.stringify(one));
  }
  await assert.rejects(made.commands.run("true"), (err) => err instanceof NotFoundError || err instanceof GoneError);
  assert.equal(await made.isRunning(), false);
  await made.kill();
});

test("stats, once and again", async () => {
  const stats = await sandbox.stats();
  assert.equal(stats.memoryLimit, 256 << 20);
  assert.ok(stats.time instanceof Date);
  const more: Stats[] = [];
  for await (const next of sandbox.watchStats({ intervalMs: 100 })) {
    if (more.push(next) === 2) {
      break;
    }
  }
  assert.equal(more.length, 2);
});

test("events are told, replayed and aborted", async () => {
  const kept = await all(sandbox.events({ after: 0, noFollow: true }));
  assert.ok(kept.some((event) => event.type === "sandbox.running" && event.sandbox.id === sandbox.id));
  const stop = new AbortController();
  const seen: SandboxEvent[] = [];
  const following = (async () => {
    for await (const event of sandbox.events({ types: ["sandbox.updated"], signal: stop.signal })) {
      seen.push(event);
    }
  })();
  await until(async () => {
    await sandbox.setLabels({ suite: name });
    return seen.length > 0;
  });
  stop.abort();
  await assert.rejects(following, { name: "AbortError" });
});

test("the network is closed, opened by a list, and its log tells", async () => {
  const made = await create({ network: { mode: "allow", allow: ["example.com"] } });
  assert.equal((await made.network.get()).network.mode, "allow");
  const status = await made.network.set({ allow: ["example.org:443"] });
  assert.deepEqual(status.network.allow, ["example.org:443"]);
  const { lost } = await made.network.log();
  assert.equal(lost, false);
  await made.kill();
  assert.equal((await sandbox.network.get()).network.mode, "none");
});

test("secrets are kept and never read back", async () => {
  const cove = new Cove();
  const set = await cove.secrets.set("TS_TOKEN", { value: "hush-0123456789", hosts: ["api.example.com"] });
  assert.deepEqual(set.hosts, ["api.example.com"]);
  assert.ok(!JSON.stringify(await cove.secrets.list()).includes("hush"));
  assert.equal((await cove.secrets.get("TS_TOKEN")).name, "TS_TOKEN");
  await cove.secrets.remove("TS_TOKEN");
  await assert.rejects(cove.secrets.get("TS_TOKEN"), NotFoundError);
  cove.close();
});

test("a port inside is reached by an address here", async () => {
  const server = `python3 -c "
import http.server
class H(http.server.BaseHTTPRequestHandler):
  def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(self.path.encode())
  def log_message(self, *a): pass
http.server.HTTPServer(('127.0.0.1', 8123), H).serve_forever()"`;
  const handle = await sandbox.commands.run(server, { background: true });
  await sandbox.waitForPort(8123, { signal: AbortSignal.timeout(20_000) });
  assert.ok((await sandbox.ports()).some((port) => port.port === 8123));
  const url = await sandbox.getUrl(8123);
  assert.equal(url, await sandbox.getUrl(8123));
  assert.equal(await sandbox.getHost(8123), new URL(url).host);
  const replies = await Promise.all([1, 2, 3].map(async (i) => (await fetch(`${url}/p${i}`)).text()));
  assert.deepEqual(replies, ["/p1", "/p2", "/p3"]);
  const opened = await sandbox.forward(8123);
  assert.equal(await (await fetch(`${opened.url}/f`)).text(), "/f");
  await opened.close();
  await assert.rejects(fetch(`${opened.url}/f`));
  await assert.rejects(sandbox.connectPort(9), UnavailableError);
  await assert.rejects(sandbox.getUrl(0), InvalidError);
  await handle.kill();
});

test("a hundred calls at once, to several sandboxes by one client, do not mix", async () => {
  const cove = new Cove();
  const boxes = await Promise.all([1, 2, 3, 4].map(() => cove.create({ runtime })));
  await Promise.all(boxes.map((box, i) => box.files.write("who", `box ${i}`)));
  const results = await Promise.all(Array.from({ length: 100 }, (_, i) => boxes[i % 4]?.commands.run(`echo "$(cat who), call ${i}"`)));
  assert.deepEqual(results.map((result) => result?.stdout), results.map((_, i) => `box ${i % 4}, call ${i}\n`));
  await Promise.all(boxes.map((box) => box.kill()));
  cove.close();
});

test("what the daemon is", async () => {
  const cove = new Cove();
  assert.equal((await cove.version()).api, "v1");
  assert.ok((await cove.runtimes()).some((known) => known.default));
  assert.ok(Array.isArray(await cove.networkPresets()));
  cove.close();
});

/** Runs a program that makes a sandbox, and returns once it has told the id. */
async function other(rest: string): Promise<{ child: ChildProcess; id: string; said: () => string }> {
  const file = join(tempDir(), "program.mjs");
  const sdk = import.meta.resolve("@cove-sandbox/sdk");
  writeFileSync(file, `import { Sandbox } from ${JSON.stringify(sdk)};\nconst sandbox = await Sandbox.create({ runtime: ${JSON.stringify(runtime)} });\nconsole.log(sandbox.id);\n${rest}`);
  const child = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "ignore"] });
  let said = "";
  child.stdout.on("data", (data) => {
    said += String(data);
  });
  await until(() => said.includes("\n") || child.exitCode !== null);
  return { child, id: said.split("\n")[0] ?? "", said: () => said };
}

const wait = "setInterval(() => {}, 1000);";
const endings: Record<string, { rest: string; signal?: NodeJS.Signals }> = {
  "comes to its end": { rest: "" },
  "calls process.exit": { rest: "process.exit(3);" },
  "throws": { rest: "throw new Error('oh');" },
  "is interrupted": { rest: wait, signal: "SIGINT" },
  "is terminated": { rest: wait, signal: "SIGTERM" },
  "is interrupted in the middle of a command": { rest: "await sandbox.commands.run('sleep 1000');", signal: "SIGINT" },
};

for (const [how, { rest, signal }] of Object.entries(endings)) {
  test(`a program that ${how} leaves no sandbox behind`, async () => {
    const { child, id } = await other(rest);
    assert.match(id, /^[a-z0-9]{10,}$/);
    if (signal !== undefined) {
      child.kill(signal);
    }
    if (child.exitCode === null && child.signalCode === null) {
      await once(child, "exit");
    }
    if (signal !== undefined) {
      assert.equal(child.signalCode, signal);
    }
    await until(async () => !(await Sandbox.list()).some((info) => info.id === id));
  });
}

test("the sandbox of a program that was killed has a minute, and one that was detached its time", async () => {
  const { child, id, said } = await other(`await sandbox.commands.run("true");\nconst kept = await Sandbox.create({ runtime: ${JSON.stringify(runtime)} });\nawait kept.detach();\nconsole.log(kept.id);\n${wait}`);
  await until(() => said().split("\n").length > 2);
  child.kill("SIGKILL");
  await once(child, "exit");
  const infos = await Sandbox.list();
  const left = (id: string | undefined): number => (infos.find((info) => info.id === id)?.expiresAt?.getTime() ?? Infinity) - Date.now();
  const keptID = said().split("\n")[1];
  assert.ok(left(id) <= 60_000, `${left(id)} ms left`);
  assert.ok(left(keptID) > 3_000_000, `${left(keptID)} ms left`);
  await Sandbox.kill(id);
  await Sandbox.kill(keptID ?? "");
});

test("a signal that the program handles itself is the program's", async () => {
  const { child, id, said } = await other(`process.on("SIGTERM", async () => { console.log((await sandbox.commands.run("echo alive")).stdout); await sandbox.kill(); process.exit(0); });\n${wait}`);
  child.kill("SIGTERM");
  await once(child, "exit");
  assert.match(said(), /alive/);
  assert.ok(!(await Sandbox.list()).some((info) => info.id === id));
});

test("the first example of the README prints 42", async () => {
  const said = execFileSync(process.execPath, [new URL("./document-readme-0.js", import.meta.url).pathname], { encoding: "utf8" });
  assert.equal(said.trim(), "42");
});
