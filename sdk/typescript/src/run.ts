import { randomUUID } from "node:crypto";
import { lstat, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createGunzip } from "node:zlib";

import { checkOptions, checkValue, count, flag, list, object, oneOf, positive, size, text, time, type Shape } from "./check.js";
import { Cove, specOf, type CreateOptions } from "./client.js";
import { checkCommand, type Command } from "./commands.js";
import { hostError, LeftOut, pack, removeBelow, unpack } from "./copy.js";
import { broken, ExhaustedError, InvalidError } from "./errors.js";
import { toBody, type Input } from "./input.js";
import { CommandResult } from "./output.js";
import type { Exit } from "./stream.js";
import type { Call, ConnectionOptions, Transport } from "./transport.js";
import type { CallOptions, Size } from "./types.js";
import { duration, fromWire, toWire } from "./wire.js";

/** A one-shot run. The sandbox is made for it and gone after it. */
export interface RunRequest {
  /** Run one after another, each whether or not those before it failed. */
  commands: readonly Command[];
  /** The sandbox: what Sandbox.create takes, but for its time and name. */
  sandbox?: Omit<CreateOptions, "timeoutMs" | "keep" | "reuse" | "name" | "idempotencyKey" | "signal">;
  /** A directory of this machine whose content goes into the sandbox's workdir. */
  in?: string;
  /** Or a tar of it, plain or packed by gzip, bzip2 or zstd. */
  archive?: Input;
  /** A directory of this machine, which may be the same: what the commands changed is changed in it. */
  out?: string;
  /** Directory that the commands run in, below the sandbox's workdir. */
  cwd?: string;
  /** Run no more commands after one that failed. */
  failFast?: boolean;
  /** Whether commands that fail are run again. */
  retry?: { attempts: number; backoffMs?: number; exitCodes?: number[] };
  /** Of each try of a command. */
  timeoutMs?: number;
  /** Most that is kept of each stream of each command. */
  maxOutput?: Size;
  /** What is given back of the files that changed. Default archive, with `out` at least that. */
  return?: "archive" | "patch" | "both" | "none";
}

/** What happened to a file, a directory or a symlink. */
export interface Change {
  /** Relative to the workdir. */
  path: string;
  /** Its path before, when it was renamed. */
  from?: string;
  kind: "added" | "modified" | "deleted" | "renamed";
  type: "file" | "directory" | "symlink" | "other";
  /** Permission bits, in octal. */
  mode: string;
}

/** How a command of a run ended. One that can't be started has the exit code 127 or 126. */
export class RunCommandResult extends CommandResult {
  readonly command: Command;
  /** How many times it was run; the rest is of the last time. */
  readonly attempts: number;

  /** @internal */
  constructor(reply: ResultReply) {
    const exit: Exit = {
      code: reply.exitCode, timedOut: reply.timedOut, durationMs: reply.durationMs,
      ...(reply.signal === undefined ? {} : { signal: reply.signal }),
    };
    super(reply.pid, exit, fromBase64(reply.stdout), fromBase64(reply.stderr), reply.truncated);
    this.command = reply.command;
    this.attempts = reply.attempts;
  }
}

/** What a run gives back. */
export interface RunResult {
  results: RunCommandResult[];
  changes: Change[];
  /** Gzipped tar of what was added, renamed or modified. */
  archive: Uint8Array | undefined;
  /** What changed, as git apply takes it. */
  patch: string | undefined;
  /** Whether every command that was asked for succeeded. */
  success: boolean;
}

interface ResultReply {
  command: Command;
  attempts: number;
  pid: number;
  exitCode: number;
  signal?: string;
  stdout: string;
  stderr: string;
  truncated: boolean;
  timedOut: boolean;
  durationMs: number;
}

interface Reply {
  results: ResultReply[];
  changes: Change[] | null;
  archive?: string | null;
  patch?: string | null;
}

/** What of a reply is relied on: its changes decide what is removed here. */
function checked(op: string, reply: unknown): Reply {
  const { results, changes, archive, patch } = (reply ?? {}) as Partial<Record<keyof Reply, unknown>>;
  const good = Array.isArray(results) && results.every((one) => isShaped(one, { exitCode: "number", stdout: "string", stderr: "string" })) &&
    (!changes || (Array.isArray(changes) && changes.every((one) => isShaped(one, { path: "string", kind: "string" })))) &&
    (!archive || typeof archive === "string") && (!patch || typeof patch === "string");
  if (!good) {
    throw broken(op, new Error("the reply makes no sense"));
  }
  return reply as Reply;
}

function isShaped(value: unknown, fields: Record<string, string>): boolean {
  return typeof value === "object" && value !== null && Object.entries(fields).every(([name, type]) => typeof (value as Record<string, unknown>)[name] === type);
}

/** Bounds the reply, near the longest string that there is. */
const maxReply = 500 << 20;
const maxTries = 30;
const requestShape: Shape = {
  sandbox: object, in: text, out: text, cwd: text, failFast: flag, retry: object, timeoutMs: time, maxOutput: size,
  return: oneOf("archive", "patch", "both", "none"),
};

/** Runs commands in a sandbox of their own: see Cove.run. */
export function run(request: RunRequest, options: ConnectionOptions & CallOptions = {}): Promise<RunResult> {
  return new Cove(options).run(request, options);
}

/** Does several runs: see Cove.runParallel. */
export function runParallel(
  requests: readonly RunRequest[], options: ConnectionOptions & CallOptions & { concurrency?: number } = {},
): Promise<PromiseSettledResult<RunResult>[]> {
  return new Cove(options).runParallel(requests, options);
}

/** @internal */
export async function oneShot(transport: Transport, request: RunRequest, signal: AbortSignal | undefined): Promise<RunResult> {
  check(request);
  const left = new LeftOut();
  const archive = await archiveOf(request, left);
  const call: Call = { op: "run", method: "POST", path: "/v1/run", signal };
  const json = bodyOf(request);
  if (archive === undefined) {
    call.json = json;
  } else {
    const boundary = randomUUID();
    call.headers = { "Content-Type": `multipart/form-data; boundary=${boundary}` };
    call.body = form(boundary, JSON.stringify(json), archive);
  }
  const reply = checked(call.op, fromWire(await transport.json(call, maxReply)));
  const results = reply.results.map((result) => new RunCommandResult(result));
  const result: RunResult = {
    results,
    changes: reply.changes ?? [],
    archive: typeof reply.archive === "string" ? fromBase64(reply.archive) : undefined,
    patch: reply.patch ?? undefined,
    success: results.length === request.commands.length && results.every((one) => one.success),
  };
  if (request.out !== undefined) {
    await apply(result, request.out);
  }
  left.check("run");
  return result;
}

/** @internal */
export async function inParallel(
  transport: Transport, requests: readonly RunRequest[], concurrency: number, signal: AbortSignal | undefined,
): Promise<PromiseSettledResult<RunResult>[]> {
  const out: PromiseSettledResult<RunResult>[] = new Array<PromiseSettledResult<RunResult>>(requests.length);
  const queue = requests.entries(); // which the workers share
  const worker = async (): Promise<void> => {
    for (const [i, request] of queue) {
      [out[i]] = (await Promise.allSettled([patient(transport, request, signal)])) as [PromiseSettledResult<RunResult>];
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, Math.min(concurrency, requests.length)) }, worker));
  return out;
}

/** Waits while the host has no room. An archive that is a stream can be sent once. */
async function patient(transport: Transport, request: RunRequest, signal: AbortSignal | undefined): Promise<RunResult> {
  const again = request.archive === undefined || typeof request.archive === "string" || request.archive instanceof Uint8Array;
  for (let tries = 1; ; tries++) {
    try {
      return await oneShot(transport, request, signal);
    } catch (err) {
      if (!(err instanceof ExhaustedError) || !again || tries === maxTries) {
        throw err;
      }
      await sleep(Math.min(err.retryAfterMs ?? 1_000, 10_000), undefined, { signal });
    }
  }
}

async function archiveOf(request: RunRequest, left: LeftOut): Promise<Uint8Array | AsyncIterable<Uint8Array> | undefined> {
  if (request.archive !== undefined) {
    if (request.in !== undefined) {
      throw new InvalidError("run: both in and archive are set", { hint: "set one of them" });
    }
    return toBody("run", request.archive);
  }
  if (request.in === undefined) {
    return undefined;
  }
  const dir = request.in;
  const info = await stat(dir).catch((err: unknown) => {
    throw hostError("run", dir, err);
  });
  if (!info.isDirectory()) {
    throw new InvalidError(`run: ${dir} is not a directory`, { hint: "pass a directory as in, or a tar as archive" });
  }
  return pack(dir, left);
}

function check(request: RunRequest): void {
  checkOptions("run", request, requestShape, "the run");
  checkValue("run", "commands", request.commands, list);
  request.commands.forEach((command) => checkCommand(command, "run"));
  if (request.retry !== undefined) {
    checkOptions("run", request.retry, { attempts: positive, backoffMs: count, exitCodes: list }, "retry");
  }
}

function bodyOf(request: RunRequest): Record<string, unknown> {
  const { retry } = request;
  let back = request.return;
  if (request.out !== undefined && (back === "none" || back === "patch")) {
    back = back === "patch" ? "both" : "archive";
  }
  return {
    commands: request.commands, cwd: request.cwd, fail_fast: request.failFast, timeout: duration(request.timeoutMs),
    max_output: request.maxOutput, encoding: "base64", return: back,
    spec: request.sandbox === undefined ? undefined : toWire(specOf(request.sandbox)),
    retry: retry === undefined ? undefined
      : { attempts: retry.attempts, backoff: retry.backoffMs === undefined ? undefined : `${retry.backoffMs}ms`, exit_codes: retry.exitCodes },
  };
}

async function* form(boundary: string, json: string, archive: Uint8Array | AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  yield Buffer.from(`--${boundary}\r\nContent-Disposition: form-data; name="request"\r\nContent-Type: application/json\r\n\r\n${json}\r\n`);
  yield Buffer.from(`--${boundary}\r\nContent-Disposition: form-data; name="archive"; filename="archive"\r\nContent-Type: application/octet-stream\r\n\r\n`);
  if (archive instanceof Uint8Array) {
    yield archive;
  } else {
    yield* archive;
  }
  yield Buffer.from(`\r\n--${boundary}--\r\n`);
}

/** Changes a directory as the commands changed theirs. Nothing outside of it is touched. */
async function apply(result: RunResult, dir: string): Promise<void> {
  try {
    // What was deleted, and what has become something else; the deepest first.
    const before = (change: Change): string => (change.kind === "renamed" && change.from) || change.path;
    for (const change of result.changes.toSorted((a, b) => (before(a) < before(b) ? 1 : -1))) {
      const gone = change.kind === "renamed" ? change.from : change.kind === "deleted" ? change.path : undefined;
      if (gone !== undefined) {
        await removeBelow(dir, gone);
      } else if (change.kind === "modified") {
        const info = await lstat(join(dir, change.path)).catch(() => undefined);
        if (info !== undefined && info.isDirectory() !== (change.type === "directory")) {
          await removeBelow(dir, change.path);
        }
      }
    }
  } catch (err) {
    throw hostError("run", dir, err);
  }
  if (result.archive !== undefined) {
    await unpack("run", gunzip(result.archive), dir);
  }
}

async function* gunzip(archive: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  const plain = createGunzip();
  plain.end(archive);
  try {
    yield* plain as AsyncIterable<Uint8Array>;
  } catch (err) {
    throw broken("run", err);
  }
}

function fromBase64(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, "base64"));
}
