import assert from "node:assert/strict";
import { test } from "node:test";

import { Cove, GoneError, InvalidError, run, runParallel, Sandbox, type CommandHandle, type PtyHandle } from "@cove-sandbox/sdk";

import { besides, frame, Impostor, tempDir, until } from "./world.js";

/** What the compiler would have refused. */
type Anything = any;

interface World {
  url: string;
  sandbox: Anything;
  handle: Anything;
  cove: Anything;
}

const wrong: Record<string, (w: World) => unknown> = {
  "an address that is a number": () => new Cove({ url: 7 as Anything }),
  "a key that is a number": () => new Cove({ apiKey: 7 as Anything }),
  "options of a daemon that are a string": () => new Cove("http://x" as Anything),
  "an image that is a number": ({ cove }) => cove.create({ image: 7 }),
  "options that are a string": ({ cove }) => cove.create("gvisor"),
  "options that are null": ({ cove }) => cove.create(null),
  "an environment that is a list": ({ cove }) => cove.create({ env: ["A=1"] }),
  "an environment with a number": ({ cove }) => cove.create({ envs: { A: 1 } }),
  "a time that is a string": ({ cove }) => cove.create({ timeoutMs: "5m" }),
  "a time below 0": ({ cove }) => cove.create({ timeoutMs: -1 }),
  "a time that is not a number": ({ cove }) => cove.create({ commandTimeoutMs: NaN }),
  "limits that are a string": ({ cove }) => cove.create({ limits: "512m" }),
  "processors that are a string": ({ cove }) => cove.create({ limits: { cpu: "1" } }),
  "no processors": ({ cove }) => cove.create({ limits: { cpu: 0 } }),
  "memory that is a list": ({ cove }) => cove.create({ limits: { memory: [1] } }),
  "a network that is a number": ({ cove }) => cove.create({ network: 1 }),
  "secrets that are an object": ({ cove }) => cove.create({ secrets: { A: "x" } }),
  "an id that is a number": ({ cove }) => cove.connect(7),
  "an id that is nothing": ({ cove }) => cove.kill(undefined),
  "a time to live that is a string": ({ cove }) => cove.connect("abc", { timeoutMs: "1h" }),
  "labels that are a string": ({ cove }) => cove.list({ labels: "a=b" }),
  "a number of an event that is a string": ({ cove }) => cove.events({ after: "1" }),
  "a secret that is a string": ({ cove }) => cove.secrets.set("A", "value"),
  "a secret's name that is a number": ({ cove }) => cove.secrets.get(7),
  "a command that is a number": ({ sandbox }) => sandbox.commands.run(7),
  "a command that is empty": ({ sandbox }) => sandbox.commands.run(""),
  "a command with a number": ({ sandbox }) => sandbox.commands.run(["echo", 7]),
  "a line where a list is wanted": ({ sandbox }) => sandbox.exec("ls -l"),
  "a command's options that are a number": ({ sandbox }) => sandbox.commands.run("true", 10),
  "a command's options that are null": ({ sandbox }) => sandbox.commands.run("true", null),
  "a directory that is a number": ({ sandbox }) => sandbox.commands.run("true", { cwd: 7 }),
  "a user that is a number": ({ sandbox }) => sandbox.commands.run("true", { user: 1000 }),
  "a command's time that is a string": ({ sandbox }) => sandbox.commands.run("true", { timeoutMs: "10" }),
  "a callback that is a string": ({ sandbox }) => sandbox.commands.run("true", { onStdout: "log" }),
  "input that is a number": ({ sandbox }) => sandbox.commands.run("cat", { stdin: 7 }),
  "a bound below 0": ({ sandbox }) => sandbox.commands.run("true", { maxOutput: -1 }),
  "a signal that is a controller": ({ sandbox }) => sandbox.commands.run("true", { signal: new AbortController() }),
  "a background that is a string": ({ sandbox }) => sandbox.commands.run("true", { background: "yes" }),
  "a process id that is a string": ({ sandbox }) => sandbox.commands.connect("7"),
  "a process id below 1": ({ sandbox }) => sandbox.commands.kill(0),
  "a begin that is neither": ({ sandbox }) => sandbox.commands.connect(7, { from: "middle" }),
  "a signal to a process that is an object": ({ handle }) => handle.sendSignal({}),
  "a waiting's signal that is a number": ({ handle }) => handle.wait({ signal: 7 }),
  "input of a handle that is a number": ({ handle }) => handle.sendStdin(7),
  "a path that is a number": ({ sandbox }) => sandbox.files.read(7),
  "a path that is empty": ({ sandbox }) => sandbox.files.write("", "x"),
  "a path that is nothing": ({ sandbox }) => sandbox.files.list(null),
  "content that is nothing": ({ sandbox }) => sandbox.files.write("x"),
  "content that is an object": ({ sandbox }) => sandbox.files.write("x", { a: 1 }),
  "a mode that is a string": ({ sandbox }) => sandbox.files.write("x", "", { mode: "0755" }),
  "a mode in decimal digits": ({ sandbox }) => sandbox.files.write("x", "", { mode: 755 }),
  "a format that there is not": ({ sandbox }) => sandbox.files.read("x", { format: "json" }),
  "a depth of 0": ({ sandbox }) => sandbox.files.list(".", { depth: 0 }),
  "files that are an object": ({ sandbox }) => sandbox.files.writeFiles({ x: "y" }),
  "a file without a path": ({ sandbox }) => sandbox.files.writeFiles([{ data: "x" }]),
  "a new path that is nothing": ({ sandbox }) => sandbox.files.rename("x"),
  "a directory to make that is a list": ({ sandbox }) => sandbox.files.makeDir(["a", "b"]),
  "a watcher that is a string": ({ sandbox }) => sandbox.files.watchDir(".", "log"),
  "a path of this machine that is nothing": ({ sandbox }) => sandbox.files.upload(undefined, "x"),
  "a target on this machine that is nothing": ({ sandbox }) => sandbox.files.download("x"),
  "a terminal of no columns": ({ sandbox }) => sandbox.pty.create({ cols: 0 }),
  "a terminal's command that is empty": ({ sandbox }) => sandbox.pty.create({ command: [] }),
  "a terminal's size that is a number": ({ sandbox }) => sandbox.pty.resize(7, 80),
  "typed input that is a number": ({ sandbox }) => sandbox.pty.sendInput(7, 13),
  "a time from now that is nothing": ({ sandbox }) => sandbox.setTimeout(),
  "labels that are a list": ({ sandbox }) => sandbox.setLabels(["a"]),
  "a port that is a string": ({ sandbox }) => sandbox.getUrl("8000"),
  "a port that is too large": ({ sandbox }) => sandbox.waitForPort(65536),
  "an interval of 0": ({ sandbox }) => sandbox.watchStats({ intervalMs: 0 }),
  "a network's rules that are a string": ({ sandbox }) => sandbox.network.set({ allow: "pip" }),
  "a tool's arguments that are nothing": ({ sandbox }) => sandbox.tools.call("shell"),
  "a tool's arguments with a bigint": ({ sandbox }) => sandbox.tools.call("shell", { command: "true", timeout: 1n }),
  "a choice of tools that is a string": ({ sandbox }) => sandbox.tools.schemas("openai", { only: "shell" }),
  "commands of a run that are a string": ({ url }) => run({ commands: "make" as Anything }, { url }),
  "a run that is a list": ({ url }) => run(["make"] as Anything, { url }),
  "a command of a run that is a number": ({ url }) => run({ commands: [7 as Anything] }, { url }),
  "a run's sandbox that is a string": ({ url }) => run({ commands: ["true"], sandbox: "gvisor" as Anything }, { url }),
  "a run's return that there is not": ({ url }) => run({ commands: ["true"], return: "zip" as Anything }, { url }),
  "a run's directory that is a number": ({ url }) => run({ commands: ["true"], in: 7 as Anything }, { url }),
  "runs that are one": ({ url }) => runParallel({ commands: ["true"] } as Anything, { url }),
  "runs 0 at a time": ({ url }) => runParallel([], { url, concurrency: 0 }),
};

test("wrong types are refused with what is wrong, before anything is sent", async (t) => {
  const sent: string[] = [];
  const { url } = new Impostor(besides((request, response) => {
    sent.push(`${request.method} ${request.url}`);
    response.end('{"pid": 7, "command": ["x"]}');
  }));
  const cove = new Cove({ url }), sandbox = await cove.connect("abc");
  const handle = await sandbox.commands.run("x", { background: true });
  sent.length = 0;
  for (const [what, act] of Object.entries(wrong)) {
    await t.test(what, async () => {
      await assert.rejects(async () => await act({ url, sandbox, handle, cove }), (err) => {
        assert.ok(err instanceof InvalidError, String(err));
        assert.ok(err.hint, err.message);
        return true;
      });
      assert.deepEqual(sent, []);
    });
  }
});

test("what is wrong is not told where it may be a secret", async () => {
  const { url } = new Impostor((_, response) => response.end());
  await assert.rejects(Sandbox.create({ url, env: "TOKEN=hush" as Anything }), (err) => err instanceof InvalidError && !err.message.includes("hush"));
  await assert.rejects(new Cove({ url }).secrets.set("A", "hush" as Anything), (err) => err instanceof InvalidError && !err.message.includes("hush"));
});

test("a sandbox that was killed is gone for every call, and nothing is sent", async () => {
  let sent = 0;
  const { url } = new Impostor(besides((request, response) => {
    if (request.url?.endsWith("/exec") || request.url?.includes("/stdin")) {
      sent++;
    }
    response.end('{"pid": 7, "command": ["x"], "name": "x", "type": "directory"}');
  }));
  const sandbox = await Sandbox.connect("abc", { url });
  const handle: CommandHandle = await sandbox.commands.run("x", { background: true });
  await sandbox.kill();
  await sandbox.kill();
  const dir = tempDir();
  const calls: (() => unknown)[] = [
    () => sandbox.commands.run("true"), () => sandbox.commands.run("true", { background: true }), () => sandbox.exec(["true"]),
    () => sandbox.commands.list(), () => sandbox.commands.connect(7), () => sandbox.commands.kill(7), () => sandbox.commands.sendStdin(7, "x"),
    () => handle.wait(), () => handle.kill(), () => handle.sendStdin("x"), () => handle[Symbol.asyncIterator]().next(),
    () => sandbox.files.read("x"), () => sandbox.files.write("x", "y"), () => sandbox.files.writeFiles([{ path: "x", data: "y" }]),
    () => sandbox.files.list(), () => sandbox.files.exists("x"), () => sandbox.files.makeDir("x"), () => sandbox.files.remove("x"),
    () => sandbox.files.rename("x", "y"), () => sandbox.files.watchDir("."), () => sandbox.files.upload(dir, "x"), () => sandbox.files.download("x", dir),
    () => sandbox.pty.create(), () => sandbox.pty.connect(7), () => sandbox.getInfo(), () => sandbox.setTimeout(1000), () => sandbox.setLabels({}),
    () => sandbox.stats(), () => sandbox.watchStats().next(), () => sandbox.ports(), () => sandbox.waitForPort(1), () => sandbox.getUrl(1),
    () => sandbox.preview(1), () => sandbox.connectPort(1), () => sandbox.network.get(), () => sandbox.network.set({}), () => sandbox.tools.listFiles(),
  ];
  for (const call of calls) {
    await assert.rejects(async () => await call(), GoneError, String(call));
  }
  assert.equal(await sandbox.isRunning(), false);
  assert.equal(sent, 0);
});

test("a hundred sandboxes' calls at once by one client do not mix", async () => {
  let open = 0, most = 0;
  const waiting: (() => void)[] = [];
  const { url } = new Impostor((request, response) => {
    const id = /sandboxes\/(\w+)/.exec(request.url ?? "")?.[1] ?? "";
    if (request.url?.endsWith("/exec")) {
      most = Math.max(most, ++open);
      response.write(Buffer.concat([frame(16, '{"pid":7}'), frame(1, `${id} begins `)]));
      waiting.push(() => response.end(Buffer.concat([frame(1, `${id} ends`, `${id} begins `.length), frame(17, '{"exit":{"code":0,"timed_out":false,"duration_ms":1}}')])));
    } else {
      response.end(JSON.stringify({ id, state: "running", runtime: "gvisor", created_at: "2026-01-01T00:00:00Z", spec: {} }));
    }
  });
  const cove = new Cove({ url });
  const sandboxes = await Promise.all(Array.from({ length: 100 }, (_, i) => cove.connect(`box${i}`)));
  const results = sandboxes.map((sandbox) => sandbox.commands.run("x"));
  await until(() => waiting.length === 100);
  waiting.reverse().forEach((end) => end());
  assert.deepEqual((await Promise.all(results)).map((result) => result.stdout), sandboxes.map(({ id }) => `${id} begins ${id} ends`));
  assert.equal(most, 100);
  cove.close();
});

test("a newer daemon's states, events, kinds and fields are told as they are", async () => {
  const later = { id: "abc", state: "hibernating", runtime: "warp", isolation: "field", controls: { gravity: "enforced" }, acquired: "thawed",
    created_at: "2026-01-01T00:00:00Z", thawed_at: "2026-01-02T00:00:00Z", spec: { warp_factor: 9 }, new: { some_field: [1] } };
  const { url } = new Impostor((request, response) => {
    const path = request.url ?? "";
    const event = (data: object): string => `event: new\nid: 7\nnovel: x\ndata: ${JSON.stringify(data)}\n\n`;
    if (path.includes("/events")) {
      response.end(`: hello\nretry: 10\n\n${event({ seq: 1, time: "2026-01-01T00:00:00Z", type: "sandbox.thawed", sandbox: later, why: "sun" })}`);
    } else if (path.includes("/watch")) {
      response.write(event({ type: "link", name: "f", inode: 7 }));
    } else if (path.includes("/list")) {
      response.end(JSON.stringify({ entries: [{ name: "s", path: "/s", type: "socket", size: 0, mode: 420, modified_at: "2026-01-01T00:00:00Z", flavor: "sour" }], next_page: "x" }));
    } else {
      response.end(JSON.stringify(path.includes("/sandboxes/abc") ? later : { sandboxes: [later], new: 1 }));
    }
  });
  const sandbox: Anything = await Sandbox.connect("abc", { url });
  assert.deepEqual([sandbox.info.state, sandbox.info.new, sandbox.info.thawedAt], ["hibernating", { someField: [1] }, new Date("2026-01-02")]);
  assert.equal(await sandbox.isRunning(), false);
  assert.equal((await Sandbox.list({ url }))[0]?.acquired, "thawed");
  const { value: event } = await sandbox.events({ after: 0, noFollow: true }).next();
  assert.deepEqual([event.type, event.why, event.sandbox.spec.warpFactor], ["sandbox.thawed", "sun", 9]);
  using watch = await sandbox.files.watchDir(".");
  const { value: seen } = await watch[Symbol.asyncIterator]().next();
  assert.deepEqual([seen.type, seen.inode], ["link", 7]);
  assert.equal((await sandbox.files.list())[0].type, "socket");
});

test("a terminal's own checks refuse what is wrong", async () => {
  const impostor = new Impostor(besides((_, response) => response.end()));
  impostor.onWebSocket((socket) => socket.resume());
  const sandbox = await Sandbox.connect("abc", { url: impostor.url });
  const pty: PtyHandle = await sandbox.pty.connect(7);
  await assert.rejects(pty.write(7 as Anything), InvalidError);
  await assert.rejects(pty.resize({ cols: -1, rows: 1 }), InvalidError);
  await pty.disconnect();
});
