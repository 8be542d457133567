import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, readdirSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import { test } from "node:test";

import {
  Cove, CoveError, ExhaustedError, ForbiddenError, InternalError, InvalidError, run, Sandbox, UnauthenticatedError, UnavailableError,
} from "@cove-sandbox/sdk";

import { all, besides, Daemon, frame, Impostor, runtime, tempDir, until } from "./world.js";

test("a daemon that dies in the middle of streams is an error within 2 s, and what it ran goes on", async () => {
  await using daemon = new Daemon();
  await daemon.start();
  const sandbox = await Sandbox.create({ url: daemon.url, runtime, keep: true });
  const handle = await sandbox.commands.run("echo begun; read x; echo $x", { background: true, stdin: true });
  const pty = await sandbox.pty.create({ command: ["sleep", "1000"] });
  const watch = await sandbox.files.watchDir(".");
  await sandbox.commands.run("mkdir dir && truncate -s 4G dir/large", { check: true });
  const file = await sandbox.files.read("dir/large", { format: "stream" });
  const to = join(tempDir(), "to");
  let died: (value: unknown) => void = () => undefined;
  const death = new Promise((done) => {
    died = done;
  });
  let begun: (value: unknown) => void = () => undefined;
  const output = new Promise((done) => {
    begun = done;
  });
  const streams = {
    "a command": sandbox.commands.run("echo x; sleep 1000", { onStdout: begun }),
    "a background command": handle.wait(),
    "a terminal": all(pty),
    "a watch": all(watch),
    "stats": all(sandbox.watchStats()),
    "events": all(sandbox.events()),
    "a wait for a port": sandbox.waitForPort(1),
    "input": sandbox.commands.run("cat", { stdin: (async function* () {
      yield "x";
      await new Promise((done) => setTimeout(done, 5_000).unref());
    })() }),
    "a file": (async () => {
      for await (const _ of file) {
        await death;
      }
    })(),
    "a file that is written": sandbox.files.write("x", (async function* () {
      yield "x";
      await new Promise((done) => setTimeout(done, 5_000).unref());
    })()),
    "a download": sandbox.files.download("dir", to),
    "a tool": sandbox.tools.shell({ command: "sleep 1000" }),
    "a run": run({ commands: ["sleep 1000"], sandbox: { runtime } }, { url: daemon.url }),
  };
  const failed = Object.entries(streams).map(async ([name, stream]) => {
    const err: unknown = await stream.then(() => undefined, (err: unknown) => err);
    assert.ok(err instanceof UnavailableError, `${name}: ${String(err)}`);
    return Date.now();
  });
  await output;
  await until(() => existsSync(to) && readdirSync(to).length > 0);
  await daemon.end("SIGKILL");
  died(undefined);
  const dead = Date.now();
  for (const when of await Promise.all(failed)) {
    assert.ok(when - dead < 2_000, `an error came ${when - dead} ms later`);
  }
  assert.deepEqual(readdirSync(to), [], "a file that was cut off is not there");
  await assert.rejects(sandbox.commands.run("true"), UnavailableError);
  await daemon.start();
  const again = await sandbox.commands.connect(handle.pid);
  await again.sendStdin("still here\n");
  assert.equal((await again.wait()).stdout, "begun\nstill here\n");
});

test("no daemon at an address, and addresses that are none", async () => {
  for (const url of [`unix://${tempDir()}/none.sock`, "http://127.0.0.1:1"]) {
    await assert.rejects(Sandbox.list({ url }), (err) => err instanceof UnavailableError && /cove serve/.test(err.message));
  }
  for (const url of ["", "nonsense", "unix://relative", "ftp://x", "http://user:pass@host"]) {
    if (url !== "") {
      assert.throws(() => new Cove({ url }), InvalidError);
    }
  }
});

test("a program that can't be found is told, and so is a directory that others write to", async () => {
  const { COVE_STATE_DIR: state } = process.env;
  const dir = join(tempDir(), "state");
  try {
    process.env["COVE_STATE_DIR"] = dir;
    const cove = new Cove({ bin: "/nonexistent" });
    await assert.rejects(cove.list(), (err) => err instanceof UnavailableError && /COVE_BIN/.test(err.message));
    mkdirSync(dir);
    chmodSync(dir, 0o777);
    await assert.rejects(new Cove({ bin: "/nonexistent" }).list(), ForbiddenError);
  } finally {
    process.env["COVE_STATE_DIR"] = state;
  }
});

test("a key is sent, and a refusal has its class; one that HTTP can't carry is refused without being told", async () => {
  const keys: (string | undefined)[] = [];
  const { url } = new Impostor((request, response) => {
    keys.push(request.headers.authorization);
    response.statusCode = 401;
    response.end(JSON.stringify({ error: { code: "unauthenticated", message: "list: the key is wrong", hint: "ask for another" } }));
  });
  await assert.rejects(Sandbox.list({ url, apiKey: "cove_x_y" }), (err) => err instanceof UnauthenticatedError && err.message.includes("ask for another"));
  assert.deepEqual(keys, ["Bearer cove_x_y"]);
  await assert.rejects(Sandbox.list({ url, apiKey: "hush\nhush" }), (err) => err instanceof InvalidError && !err.message.includes("hush"));
});

test("a newer daemon: unknown codes, fields, frames and events are no trouble", async () => {
  const { url } = new Impostor(besides((request, response) => {
    if (request.url?.endsWith("/exec")) {
      response.write(frame(16, '{"pid":7,"new":1}'));
      response.write(Buffer.concat([frame(99, "?"), frame(0, ""), frame(1, "out"), frame(2, "err")]));
      response.end(frame(17, '{"pid":7,"exit":{"code":3,"timed_out":false,"duration_ms":1,"new":true}}'));
    } else {
      response.statusCode = 418;
      response.end(JSON.stringify({ error: { code: "teapot", message: "short and stout", new: 1 } }));
    }
  }));
  const sandbox = await Sandbox.connect("abc", { url });
  const result = await sandbox.commands.run("x");
  assert.deepEqual([result.pid, result.stdout, result.stderr, result.exitCode], [7, "out", "err", 3]);
  await assert.rejects(sandbox.stats(), (err) => err instanceof CoveError && err.code === "teapot" && err.status === 418);
});

test("output of which the begin is no longer kept is told to be truncated", async () => {
  const { url } = new Impostor(besides((request, response) => {
    if (request.url?.includes("/output")) {
      response.end(Buffer.concat([frame(16, '{"pid":7}'), frame(1, "rest", 1000), frame(17, '{"exit":{"code":0,"timed_out":false,"duration_ms":1}}')]));
    } else {
      response.end('{"pid":7,"command":["x"],"running":true}');
    }
  }));
  const sandbox = await Sandbox.connect("abc", { url });
  assert.equal((await (await sandbox.commands.connect(7)).wait()).truncated, true);
  assert.equal((await (await sandbox.commands.connect(7, { from: "end" })).wait()).truncated, false);
});

test("a page of something in between is an error by its status", async () => {
  let status = 429;
  const { url } = new Impostor((_, response) => {
    response.statusCode = status;
    response.end("<html>no</html>");
  });
  await assert.rejects(Sandbox.list({ url }), ExhaustedError);
  status = 302;
  await assert.rejects(Sandbox.list({ url }), CoveError);
  status = 500;
  await assert.rejects(Sandbox.list({ url }), InternalError);
  status = 200;
  await assert.rejects(Sandbox.list({ url }), UnavailableError);
});

const streams: Record<string, Buffer> = {
  "that is empty": Buffer.alloc(0),
  "that ends before the exit": Buffer.concat([frame(16, '{"pid":7}'), frame(1, "x")]),
  "that ends in a header": frame(1, "x").subarray(0, 5),
  "that ends in a payload": frame(1, "xxxx").subarray(0, 15),
  "whose frame is too long": Buffer.concat([frame(1, "").subarray(0, 9), Buffer.from([0x7f, 0xff, 0xff, 0xff])]),
  "whose exit is no JSON": frame(17, "{"),
};

for (const [name, data] of Object.entries(streams)) {
  test(`a stream ${name} is an error`, async () => {
    const { url } = new Impostor(besides((_, response) => response.end(data)));
    const sandbox = await Sandbox.connect("abc", { url });
    await assert.rejects(sandbox.commands.run("x"), UnavailableError);
  });
}

/** A frame of a WebSocket's server. */
function wsFrame(first: number, payload: string | Uint8Array, second = Buffer.from(payload).length): Buffer {
  return Buffer.concat([Buffer.from([first, second]), Buffer.from(payload)]);
}

async function terminal(take: (socket: Socket) => void) {
  const impostor = new Impostor(besides((_, response) => response.end()));
  impostor.onWebSocket(take);
  const sandbox = await Sandbox.connect("abc", { url: impostor.url });
  return sandbox.pty.connect(7);
}

const bye = wsFrame(0x81, '{"exit":{"code":0,"timed_out":false,"duration_ms":1}}');

test("a WebSocket's messages may come in pieces, with a ping between them", async () => {
  const received: Buffer[] = [];
  const pty = await terminal((socket) => {
    socket.on("data", (data) => received.push(data));
    const wire = Buffer.concat([wsFrame(0x02, "he"), wsFrame(0x89, "ping"), wsFrame(0x00, "l"), wsFrame(0x80, "lo"), wsFrame(0x8a, ""), wsFrame(0x82, ""),
      Buffer.concat([Buffer.from([0x82, 126, 0x01, 0x00]), Buffer.alloc(256, "x")]), bye]);
    for (const byte of wire) {
      socket.write(Buffer.from([byte]));
    }
  });
  const shown = await all(pty);
  assert.deepEqual(shown.map((data) => data.length), [5, 0, 256]);
  assert.equal(Buffer.from(shown[0] ?? []).toString(), "hello");
  const pong = Buffer.concat(received);
  assert.equal(pong[0], 0x8a);
  assert.equal((pong[1] ?? 0) & 0x80, 0x80, "what a client sends is masked");
  const mask = pong.subarray(2, 6);
  assert.equal(Buffer.from(pong.subarray(6, 10)).map((byte, i) => byte ^ (mask[i] ?? 0)).toString(), "ping");
});

const wsDefects: Record<string, { wire: Buffer; code: number }> = {
  "a masked frame": { wire: Buffer.from([0x82, 0x81, 0, 0, 0, 0, 65]), code: 1002 },
  "a reserved bit": { wire: wsFrame(0xc2, "x"), code: 1002 },
  "an unknown kind": { wire: wsFrame(0x83, "x"), code: 1002 },
  "an unknown control": { wire: wsFrame(0x8b, "x"), code: 1002 },
  "a ping in pieces": { wire: wsFrame(0x09, "x"), code: 1002 },
  "a ping that is too long": { wire: Buffer.from([0x89, 126, 0, 126]), code: 1002 },
  "a rest of nothing": { wire: wsFrame(0x80, "x"), code: 1002 },
  "a message in another": { wire: Buffer.concat([wsFrame(0x02, "x"), wsFrame(0x82, "y")]), code: 1002 },
  "a text that is not UTF-8": { wire: wsFrame(0x81, Buffer.from([0xff])), code: 1007 },
  "a frame that is too long": { wire: Buffer.from([0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0]), code: 1009 },
  "a close of one byte": { wire: wsFrame(0x88, "x"), code: 1002 },
  "a close code that must not be sent": { wire: wsFrame(0x88, Buffer.from([0x03, 0xed])), code: 1002 },
};

for (const [name, { wire, code }] of Object.entries(wsDefects)) {
  test(`a WebSocket with ${name} is closed with ${code} and is an error`, async () => {
    const received: Buffer[] = [];
    let ended: (value: unknown) => void = () => undefined;
    const over = new Promise((done) => {
      ended = done;
    });
    const pty = await terminal((socket) => {
      socket.on("data", (data) => received.push(data));
      socket.on("end", () => socket.end());
      socket.on("close", ended);
      socket.write(wire);
    });
    await assert.rejects(all(pty), UnavailableError);
    await over;
    const sent = Buffer.concat(received);
    assert.equal(sent[0], 0x88);
    const mask = sent.subarray(2, 6);
    assert.equal(((sent[6] ?? 0) ^ (mask[0] ?? 0)) * 256 + ((sent[7] ?? 0) ^ (mask[1] ?? 0)), code);
  });
}

test("a WebSocket that ends without a close, or with one before the exit, is an error", async () => {
  await assert.rejects(all(await terminal((socket) => socket.end(wsFrame(0x82, "x")))), UnavailableError);
  await assert.rejects(all(await terminal((socket) => socket.end(wsFrame(0x88, Buffer.from([0x03, 0xe8]))))), UnavailableError);
  await assert.rejects(all(await terminal((socket) => socket.end(wsFrame(0x88, Buffer.from([0x03, 0xf3]))))), /1011/);
});

test("a WebSocket whose handshake is wrong is refused", async () => {
  const impostor = new Impostor(besides((_, response) => response.end()));
  impostor.server.on("upgrade", (_, socket: Socket) => socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n"));
  const sandbox = await Sandbox.connect("abc", { url: impostor.url });
  await assert.rejects(sandbox.pty.connect(7), UnavailableError);
});
