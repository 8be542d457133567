import type { Duplex } from "node:stream";

import type { Box } from "./box.js";
import { checkOptions, checkValue, list, positive, textMap, time } from "./check.js";
import { Cove, type ConnectOptions, type CreateOptions, type ListOptions } from "./client.js";
import { Commands, type RunOptions } from "./commands.js";
import { GoneError, NotFoundError, NotSupportedError, TimeoutError } from "./errors.js";
import { Files } from "./files.js";
import { follow } from "./follow.js";
import { checkPort, connectPort, forward, type Forward } from "./forward.js";
import type { CommandHandle } from "./handle.js";
import { Lease } from "./lease.js";
import { SandboxNetwork } from "./network.js";
import type { CommandResult } from "./output.js";
import { Pty } from "./pty.js";
import { Tools } from "./tools.js";
import type { ConnectionOptions } from "./transport.js";
import type { CallOptions, EventOptions, ListeningPort, Preview, SandboxEvent, SandboxInfo, Stats } from "./types.js";
import { duration, fromWire } from "./wire.js";

/**
 * A sandbox: an isolated computer. `await using sandbox = await Sandbox.create()` kills it
 * at the end of the block. One that was created here, without `keep`, goes with this
 * program, however that ends: see the README.
 */
export class Sandbox {
  /** Unique for ever. */
  readonly id: string;
  readonly commands: Commands;
  readonly files: Files;
  readonly pty: Pty;
  readonly network: SandboxNetwork;
  /** What a model may call. */
  readonly tools: Tools;
  readonly #box: Box;
  readonly #forwards = new Map<number, Promise<Forward>>();
  #info: SandboxInfo;
  #lease: Lease | undefined;

  /** @internal end: until when it is leased, or undefined for one that is not */
  constructor(box: Box, info: SandboxInfo, end: number | undefined) {
    this.#box = box;
    this.id = box.id;
    this.#info = info;
    this.#lease = end === undefined ? undefined : new Lease(box, end);
    this.commands = new Commands(box);
    this.files = new Files(box);
    this.pty = new Pty(box);
    this.network = new SandboxNetwork(box);
    this.tools = new Tools(box);
  }

  /** Makes a sandbox and returns when it can be used. */
  static create(options: CreateOptions & ConnectionOptions = {}): Promise<Sandbox> {
    return new Cove(options).create(options);
  }

  /** Returns a handle on a sandbox that exists, by its id or name. */
  static connect(idOrName: string, options: ConnectOptions & ConnectionOptions = {}): Promise<Sandbox> {
    return new Cove(options).connect(idOrName, options);
  }

  /** Lists sandboxes, oldest first. */
  static list(options: ListOptions & ConnectionOptions = {}): Promise<SandboxInfo[]> {
    return new Cove(options).list(options);
  }

  /** Destroys a sandbox. Returns whether there was one. */
  static kill(idOrName: string, options: CallOptions & ConnectionOptions = {}): Promise<boolean> {
    return new Cove(options).kill(idOrName, options);
  }

  /** The same as `id`. */
  get sandboxId(): string {
    return this.id;
  }

  /** What the daemon said about it last; see getInfo. */
  get info(): SandboxInfo {
    return this.#info;
  }

  /** Runs a program with arguments, which no shell sees. */
  exec(argv: readonly string[], options: RunOptions & { background: true }): Promise<CommandHandle>;
  exec(argv: readonly string[], options?: RunOptions & { background?: false }): Promise<CommandResult>;
  async exec(argv: readonly string[], options: RunOptions = {}): Promise<CommandResult | CommandHandle> {
    checkValue("exec", "the command", argv, list); // a line is for a shell
    return this.commands.run(argv, options);
  }

  /** Asks the daemon how it stands. */
  async getInfo(options: CallOptions = {}): Promise<SandboxInfo> {
    this.#info = fromWire(await this.#box.json(this.#box.call("find sandbox", "GET", "", options)));
    return this.#info;
  }

  /** Whether it is there and can be used. */
  async isRunning(options: CallOptions = {}): Promise<boolean> {
    try {
      return (await this.getInfo(options)).state === "running";
    } catch (err) {
      if (err instanceof NotFoundError || err instanceof GoneError) {
        return false;
      }
      throw err;
    }
  }

  /** Sets how long it lives from now on; 0 is for ever. */
  async setTimeout(timeoutMs: number, options: CallOptions = {}): Promise<void> {
    checkValue("set timeout", "the time", timeoutMs, time);
    if (this.#lease !== undefined) {
      await this.#lease.until(timeoutMs === 0 ? Infinity : Date.now() + timeoutMs, options.signal);
      return;
    }
    await this.#update({ ttl: duration(timeoutMs) }, options);
  }

  /** Replaces all labels. */
  async setLabels(labels: Record<string, string>, options: CallOptions = {}): Promise<void> {
    checkValue("set labels", "labels", labels, textMap);
    await this.#update({ labels }, options);
  }

  /** Lets it outlive this program, for the rest of its time. Sandbox.connect finds it again. */
  async detach(options: CallOptions = {}): Promise<void> {
    const lease = this.#lease;
    if (lease === undefined) {
      return;
    }
    await this.#update({ ttl: duration(lease.remaining === Infinity ? 0 : Math.ceil(lease.remaining)) }, options);
    lease.release();
    this.#lease = undefined;
  }

  /** Destroys it and returns when nothing of it is left. Succeeds for one that is gone. */
  async kill(options: CallOptions = {}): Promise<void> {
    if (this.#box.killed) {
      return;
    }
    await this.#closeForwards();
    await this.#box.remove(options.signal);
    this.#lease?.release();
    this.#lease = undefined;
    this.#box.killed = true;
  }

  /** Destroys it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  /** What it uses now. */
  async stats(options: CallOptions = {}): Promise<Stats> {
    return fromWire(await this.#box.json(this.#box.call("stats", "GET", "/stats", options)));
  }

  /** Yields what it uses, again after every interval (default 1 s), until the sandbox ends, which is an error. */
  watchStats(options: CallOptions & { intervalMs?: number } = {}): AsyncGenerator<Stats, void, undefined> {
    checkOptions("stats", options, { intervalMs: positive });
    const call = this.#box.call("stats", "GET", "/stats", { query: { interval: duration(options.intervalMs) }, signal: options.signal });
    return follow<Stats>(this.#box.transport, call, false);
  }

  /** Yields what happens to it: see Cove.events. */
  events(options: Omit<EventOptions, "sandbox"> = {}): AsyncGenerator<SandboxEvent, void, undefined> {
    return follow<SandboxEvent>(this.#box.transport, {
      op: "events", method: "GET", path: "/v1/events", signal: options.signal,
      query: { after: options.after, sandbox: this.id, type: options.types, no_follow: options.noFollow },
    }, options.noFollow ?? false);
  }

  /** The TCP ports inside on which something listens. */
  async ports(options: CallOptions = {}): Promise<ListeningPort[]> {
    return fromWire<{ ports: ListeningPort[] | null }>(await this.#box.json(this.#box.call("list ports", "GET", "/ports", options))).ports ?? [];
  }

  /** Returns once something inside listens on a port. */
  async waitForPort(port: number, options: CallOptions = {}): Promise<void> {
    const call = this.#box.call("wait for port", "GET", "/ports", { query: { wait: checkPort(port), timeout: "30s" }, signal: options.signal });
    for (;;) {
      try {
        await this.#box.json(call);
        return;
      } catch (err) {
        if (!(err instanceof TimeoutError)) {
          throw err;
        }
      }
    }
  }

  /**
   * An address of a port inside: a preview, for any browser, where the daemon serves those;
   * else one of this machine, on 127.0.0.1, that works while this program and the sandbox live.
   */
  async getUrl(port: number, options: CallOptions = {}): Promise<string> {
    try {
      return (await this.preview(port, options)).url;
    } catch (err) {
      if (!(err instanceof NotSupportedError)) {
        throw err;
      }
    }
    let opened = this.#forwards.get(port);
    if (opened === undefined) {
      opened = forward(this.#box, port);
      this.#forwards.set(port, opened);
      opened.catch(() => this.#forwards.delete(port));
    }
    return (await opened).url;
  }

  /** Host and port of getUrl. */
  async getHost(port: number, options: CallOptions = {}): Promise<string> {
    return new URL(await this.getUrl(port, options)).host;
  }

  /** An address of a port on an origin of its own. Who has it can use the port. Needs a daemon that serves previews. */
  async preview(port: number, options: CallOptions & { ttlMs?: number } = {}): Promise<Preview> {
    checkOptions("preview", options, { ttlMs: positive });
    return fromWire(await this.#box.json(this.#box.call("preview", "POST", "/previews", {
      json: { port: checkPort(port), ttl: duration(options.ttlMs) }, signal: options.signal,
    })));
  }

  /** Makes every address worthless that preview has returned for a port. */
  async revokePreviews(port: number, options: CallOptions = {}): Promise<void> {
    await this.#box.json(this.#box.call("revoke previews", "DELETE", `/previews/${checkPort(port)}`, options));
  }

  /** Opens a port of this machine that leads to one inside. */
  forward(port: number, options: { localPort?: number } = {}): Promise<Forward> {
    return forward(this.#box, port, options.localPort);
  }

  /** Opens a TCP connection to a port on the loopback inside. */
  connectPort(port: number, options: CallOptions = {}): Promise<Duplex> {
    return connectPort(this.#box, port, options);
  }

  async #update(json: Record<string, unknown>, options: CallOptions): Promise<void> {
    this.#info = fromWire(await this.#box.json(this.#box.call("update", "PATCH", "", { json, signal: options.signal })));
  }

  async #closeForwards(): Promise<void> {
    const opened = [...this.#forwards.values()];
    this.#forwards.clear();
    await Promise.all(opened.map(async (one) => (await one).close().catch(() => undefined)));
  }
}
