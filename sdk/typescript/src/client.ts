import { randomUUID } from "node:crypto";

import { Box, segment } from "./box.js";
import {
  amount, checkOptions, checkValue, count, either, flag, list, object, positive, size, text, textMap, texts, time, type Shape,
} from "./check.js";
import { InvalidError } from "./errors.js";
import { follow } from "./follow.js";
import { leaseMs } from "./lease.js";
import { inParallel, oneShot, type RunRequest, type RunResult } from "./run.js";
import { Sandbox } from "./sandbox.js";
import { Transport, type ConnectionOptions } from "./transport.js";
import type {
  Build, CallOptions, EventOptions, Limits, Network, NetworkMode, NetworkPreset, RuntimeInfo, SandboxEvent, SandboxInfo,
  SandboxState, Secret, SecretInput, SecretUse, Spec,
} from "./types.js";
import { duration, fromWire, toWire } from "./wire.js";

/** What a sandbox is to be. Everything may be left out. */
export interface CreateOptions extends Omit<Spec, "network" | "timeout" | "ttl" | "idle">, CallOptions {
  /** `false` or "none": nothing; `true` or "open": public addresses; or a policy. Default none. */
  network?: boolean | NetworkMode | Network;
  /** Secrets that it uses without seeing them. */
  secrets?: SecretUse[];
  /** Environment of every command; the same as `env`. */
  envs?: Record<string, string>;
  /** Working directory of commands; the same as `workdir`. */
  cwd?: string;
  /** Labels by another name. */
  metadata?: Record<string, string>;
  /** How long it lives; 0 is for ever. Default 1 h. */
  timeoutMs?: number;
  /** How long it lives without use. Default for ever. */
  idleTimeoutMs?: number;
  /** How long one command may take, unless it says otherwise. Default 300 s. */
  commandTimeoutMs?: number;
  /** Whether it outlives this program. Default: only with `reuse`. */
  keep?: boolean;
  /** Take the living sandbox that has the name, if it was created with the same spec. */
  reuse?: boolean;
  /** The same key and spec give the same sandbox, however often they are sent. */
  idempotencyKey?: string;
}

export interface ListOptions extends CallOptions {
  /** All of these. */
  labels?: Record<string, string>;
  /** The same as `labels`. */
  metadata?: Record<string, string>;
  state?: SandboxState;
}

export interface ConnectOptions extends CallOptions {
  /** Makes it live at least so long from now on. */
  timeoutMs?: number;
}

const defaultLifeMs = 3_600_000;

const createShape: Shape = {
  name: text, runtime: text, image: text, pull: text, platform: text, user: text, workdir: text, cwd: text, idempotencyKey: text,
  env: textMap, envs: textMap, labels: textMap, metadata: textMap, hosts: textMap,
  network: either(flag, text, object), limits: object, options: object, secrets: list, mounts: list, ports: list, ulimits: list,
  keep: flag, reuse: flag, readOnly: flag, bestEffort: flag, timeoutMs: time, idleTimeoutMs: time, commandTimeoutMs: time,
};
const limitsShape: Shape = { cpu: amount, cpus: amount, memory: size, disk: size, shm: size, pids: positive };
const listShape: Shape = { labels: textMap, metadata: textMap, state: text };

/** A daemon. It reuses connections; one may serve a whole program. */
export class Cove {
  /** Secrets that the daemon keeps and sandboxes use without seeing them. */
  readonly secrets: Secrets;
  readonly #transport: Transport;

  constructor(options: ConnectionOptions = {}) {
    this.#transport = new Transport(options);
    this.secrets = new Secrets(this.#transport);
  }

  /** Makes a sandbox and returns when it can be used. */
  async create(options: CreateOptions = {}): Promise<Sandbox> {
    const spec = toWire(specOf(options)) as object;
    const keep = options.keep ?? options.reuse ?? false;
    const life = options.timeoutMs ?? defaultLifeMs;
    const end = life === 0 ? Infinity : Date.now() + life;
    const lease = keep ? undefined : Math.min(life || Infinity, leaseMs);
    const reply = fromWire<SandboxInfo>(await this.#transport.json({
      op: "create", method: "POST", path: "/v1/sandboxes",
      query: { if_exists: options.reuse ? "return" : undefined },
      headers: { "Idempotency-Key": options.idempotencyKey ?? randomUUID() },
      json: { ...spec, ttl: lease === undefined ? duration(options.timeoutMs) : `${lease}ms` },
      signal: options.signal,
      repeatable: true,
    }));
    return new Sandbox(new Box(this.#transport, reply.id), reply, keep ? undefined : end);
  }

  /** Returns a handle on a sandbox that exists, by its id or name. */
  async connect(idOrName: string, options: ConnectOptions = {}): Promise<Sandbox> {
    checkOptions("find sandbox", options, { timeoutMs: time });
    const call = { op: "find sandbox", method: "GET", path: `/v1/sandboxes/${segment(new Box(this.#transport, idOrName).id)}`, signal: options.signal };
    const info = fromWire<SandboxInfo>(await this.#transport.json(call));
    const sandbox = new Sandbox(new Box(this.#transport, info.id), info, undefined);
    const { timeoutMs } = options;
    if (timeoutMs !== undefined && info.expiresAt !== undefined && (timeoutMs === 0 || info.expiresAt.getTime() < Date.now() + timeoutMs)) {
      await sandbox.setTimeout(timeoutMs, options);
    }
    return sandbox;
  }

  /** Lists sandboxes, oldest first. */
  async list(options: ListOptions = {}): Promise<SandboxInfo[]> {
    checkOptions("list sandboxes", options, listShape);
    const label = Object.entries({ ...options.metadata, ...options.labels }).map(([key, value]) => `${key}=${value}`);
    const reply = await this.#transport.json({
      op: "list sandboxes", method: "GET", path: "/v1/sandboxes", query: { label, state: options.state }, signal: options.signal,
    });
    return fromWire<{ sandboxes: SandboxInfo[] | null }>(reply).sandboxes ?? [];
  }

  /** Destroys a sandbox. Returns whether there was one. */
  async kill(idOrName: string, options: CallOptions = {}): Promise<boolean> {
    const box = new Box(this.#transport, idOrName);
    const there = (await this.list(options)).some((info) => info.id === idOrName || info.name === idOrName);
    const known = await box.remove(options.signal);
    return there && known;
  }

  /** Yields what happens to sandboxes, until the signal fires or the daemon stops, which is an error. */
  events(options: EventOptions = {}): AsyncGenerator<SandboxEvent, void, undefined> {
    checkOptions("events", options, { after: count, sandbox: text, types: texts, noFollow: flag });
    return follow<SandboxEvent>(this.#transport, {
      op: "events", method: "GET", path: "/v1/events", signal: options.signal,
      query: { after: options.after, sandbox: options.sandbox, type: options.types, no_follow: options.noFollow },
    }, options.noFollow ?? false);
  }

  /** Runs commands in a sandbox of their own: files in, commands, and what they changed out. */
  async run(request: RunRequest, options: CallOptions = {}): Promise<RunResult> {
    return oneShot(this.#transport, request, options.signal);
  }

  /** Does several runs, some at the same time (default 4), and settles each. One for which the host has no room now is tried again. */
  async runParallel(requests: readonly RunRequest[], options: CallOptions & { concurrency?: number } = {}): Promise<PromiseSettledResult<RunResult>[]> {
    checkValue("run", "the argument", requests, list);
    checkOptions("run", options, { concurrency: positive });
    return inParallel(this.#transport, requests, options.concurrency ?? 4, options.signal);
  }

  /** What the daemon is. */
  async version(options: CallOptions = {}): Promise<Build> {
    return fromWire(await this.#get("version", "/v1/version", options));
  }

  /** What its host can, and can't, isolate with. */
  async runtimes(options: CallOptions = {}): Promise<RuntimeInfo[]> {
    return fromWire<{ runtimes: RuntimeInfo[] }>(await this.#get("list runtimes", "/v1/runtimes", options)).runtimes;
  }

  /** The names for network rules that there are. */
  async networkPresets(options: CallOptions = {}): Promise<NetworkPreset[]> {
    return fromWire<{ presets: NetworkPreset[] | null }>(await this.#get("network presets", "/v1/network/presets", options)).presets ?? [];
  }

  /** Closes connections that are idle. Sandboxes and streams go on. */
  close(): void {
    this.#transport.close();
  }

  #get(op: string, path: string, options: CallOptions): Promise<unknown> {
    return this.#transport.json({ op, method: "GET", path, signal: options.signal });
  }
}

/** The secrets of a daemon. Their values are never read back. */
export class Secrets {
  readonly #transport: Transport;

  /** @internal */
  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Stores a secret, or changes the one of that name, also for sandboxes that use it. */
  async set(name: string, secret: SecretInput, options: CallOptions = {}): Promise<Secret> {
    checkOptions("set secret", secret, { value: text, hosts: texts, in: texts }, "the secret");
    return fromWire(await this.#call("set secret", "PUT", name, options, secret));
  }

  async get(name: string, options: CallOptions = {}): Promise<Secret> {
    return fromWire(await this.#call("secret", "GET", name, options));
  }

  async list(options: CallOptions = {}): Promise<Secret[]> {
    const reply = await this.#transport.json({ op: "list secrets", method: "GET", path: "/v1/secrets", signal: options.signal });
    return fromWire<{ secrets: Secret[] | null }>(reply).secrets ?? [];
  }

  async remove(name: string, options: CallOptions = {}): Promise<void> {
    await this.#call("remove secret", "DELETE", name, options);
  }

  async #call(op: string, method: string, name: string, options: CallOptions, json?: unknown): Promise<unknown> {
    checkValue(op, "the name", name, text);
    return this.#transport.json({ op, method, path: `/v1/secrets/${segment(name)}`, json, signal: options.signal });
  }
}

/** @internal The spec that options ask for, without its time to live. */
export function specOf(options: CreateOptions): Spec {
  checkOptions("create", options, createShape);
  const {
    network, secrets, envs, cwd, metadata, timeoutMs: _life, idleTimeoutMs, commandTimeoutMs, keep: _keep, reuse: _reuse,
    idempotencyKey: _key, signal: _signal, limits, ...rest
  } = options;
  const spec: Record<string, unknown> = {
    ...rest,
    env: envs === undefined ? rest.env : { ...rest.env, ...envs },
    workdir: rest.workdir ?? cwd,
    labels: metadata === undefined ? rest.labels : { ...rest.labels, ...metadata },
    limits: limitsOf(limits),
    network: networkOf(network, secrets),
    idle: duration(idleTimeoutMs),
    timeout: duration(commandTimeoutMs),
  };
  for (const place of ["url", "apiKey", "bin", "ca"]) {
    delete spec[place]; // where the daemon is, with Sandbox.create
  }
  return spec as Spec;
}

function limitsOf(limits: Limits | undefined): Limits | undefined {
  if (limits !== undefined) {
    checkOptions("create", limits, limitsShape, "limits");
  }
  if (limits?.cpu === undefined) {
    return limits;
  }
  const { cpu, ...rest } = limits;
  if (rest.cpus !== undefined && rest.cpus !== cpu) {
    throw new InvalidError("create: limits has both cpu and cpus", { hint: "they mean the same: set one of them" });
  }
  return { ...rest, cpus: cpu };
}

function networkOf(network: CreateOptions["network"], secrets: SecretUse[] | undefined): Network | undefined {
  const policy: Network | undefined =
    typeof network === "boolean" ? { mode: network ? "open" : "none" } : typeof network === "string" ? { mode: network } : network;
  return secrets === undefined ? policy : { ...policy, secrets: [...(policy?.secrets ?? []), ...secrets] };
}
