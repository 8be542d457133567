import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";

import { Cove, Sandbox, type CreateOptions } from "@cove-sandbox/sdk";

/** What isolates in these tests. */
export const runtime = process.env["COVE_RUNTIME"] || "gvisor";

/** A sandbox for the tests of one file. */
export async function create(options: CreateOptions = {}): Promise<Sandbox> {
  return Sandbox.create({ runtime, ...options });
}

/** A directory that goes with the tests of the file. */
export function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "cove-ts-"));
  after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Waits for a condition; the test's own limit ends it. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) {
    await new Promise((done) => setTimeout(done, 20));
  }
}

/** The program cove. */
export function program(): string {
  const bin = process.env["COVE_BIN"] ?? "cove";
  return statSync(bin, { throwIfNoEntry: false })?.isDirectory() ? join(bin, "cove") : bin;
}

/** A daemon of the test's own, to be ended in whatever way. */
export class Daemon {
  readonly dir = mkdtempSync(join(tmpdir(), "cove-ts-"));
  readonly url = `unix://${join(this.dir, "state", "cove.sock")}`;
  readonly #args: string[];
  #child: ReturnType<typeof spawn> | undefined;

  constructor(args: string[] = []) {
    this.#args = args;
  }

  /** Where it serves the network, with --listen. */
  async address(): Promise<string> {
    const read = (): string | undefined => /listen=(\S+)/.exec(readFileSync(join(this.dir, "log"), "utf8"))?.[1];
    await until(() => read() !== undefined);
    return `http://${read()}`;
  }

  /** Starts it, unless it runs. */
  async start(): Promise<void> {
    if (this.#child?.exitCode === null && this.#child.signalCode === null) {
      return;
    }
    const log = openSync(join(this.dir, "log"), "a");
    const child = spawn(program(), ["serve", "--state-dir", join(this.dir, "state"), "--data-dir", join(this.dir, "data"), ...this.#args], { stdio: ["ignore", log, log] });
    closeSync(log);
    this.#child = child;
    const cove = new Cove({ url: this.url });
    await until(async () => {
      assert.equal(child.exitCode, null, "the daemon ended");
      return cove.version().then(() => true, () => false);
    });
    cove.close();
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) {
      return;
    }
    const ended = new Promise((done) => child.once("exit", done));
    child.kill(signal);
    await ended;
  }

  /** Removes its sandboxes, ends it, and removes what it kept. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.start();
    for (const info of await Sandbox.list({ url: this.url })) {
      await Sandbox.kill(info.id, { url: this.url });
    }
    await this.end("SIGTERM");
    rmSync(this.dir, { recursive: true, force: true });
  }
}

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** Something that listens where a daemon would, and is not one. */
export class Impostor {
  readonly url: string;
  readonly server: Server;

  constructor(handler: Handler) {
    const socket = join(tempDir(), "cove.sock");
    this.url = `unix://${socket}`;
    this.server = createServer(handler).listen(socket);
    after(() => {
      this.server.closeAllConnections();
      this.server.close();
    });
  }

  /** Accepts every upgrade, and hands on the connection after a good handshake. */
  onWebSocket(take: (socket: Socket) => void): void {
    this.server.on("upgrade", (request: IncomingMessage, socket: Socket) => {
      const key = String(request.headers["sec-websocket-key"]);
      const accept = createHash("sha1").update(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
      socket.on("error", () => socket.destroy());
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
      take(socket);
    });
  }
}

/** What a daemon says of a sandbox. */
export const someSandbox = {
  id: "abc", state: "running", runtime: "gvisor", isolation: "userspace-kernel", controls: {}, acquired: "cold",
  created_at: "2026-01-01T00:00:00Z", spec: {},
};

/** Answers what connect asks, and hands on the rest. */
export function besides(handler: Handler): Handler {
  return (request, response) => {
    if (request.url === "/v1/sandboxes/abc") {
      response.setHeader("Content-Type", "application/json");
      response.end(JSON.stringify(someSandbox));
      return;
    }
    handler(request, response);
  };
}

/** A frame of a stream. */
export function frame(kind: number, payload: string | Uint8Array, offset = 0): Buffer {
  const body = Buffer.from(payload);
  const head = Buffer.alloc(13);
  head.writeUInt8(kind);
  head.writeBigUInt64BE(BigInt(offset), 1);
  head.writeUInt32BE(body.length, 9);
  return Buffer.concat([head, body]);
}

/** Takes everything of a stream. */
export async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = [];
  for await (const item of source) {
    out.push(item);
  }
  return out;
}
