import type { Box } from "./box.js";
import { abort, callback, checkOptions, count, flag, oneOf, text, textMap, time, type Shape } from "./check.js";
import { InvalidError } from "./errors.js";
import { CommandHandle, watched, type ProcessInfo } from "./handle.js";
import { toBody, type Input } from "./input.js";
import { Collector, type OutputCallback } from "./collector.js";
import { CommandExitError, type CommandResult } from "./output.js";
import { frames } from "./stream.js";
import { duration, fromWire } from "./wire.js";

/** A line for the shell /bin/sh, or a program with its arguments, which no shell sees. */
export type Command = string | readonly string[];

/** How a command is run. */
export interface RunOptions {
  /** Return a {@link CommandHandle} as soon as it runs. It outlives this process, not the sandbox. */
  background?: boolean;
  /** Added to the sandbox's environment. */
  envs?: Readonly<Record<string, string>> | undefined;
  /** The same as `envs`. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Default: the sandbox's. */
  cwd?: string | undefined;
  /** The same as `cwd`. */
  workdir?: string | undefined;
  /** Default: the sandbox's. */
  user?: string | undefined;
  /** Its standard input; `true`, in the background, keeps it open for {@link CommandHandle.sendStdin}. */
  stdin?: Input | boolean | undefined;
  /** Then it and everything that it started is killed. 0 is never. Default: the sandbox's, in the background never. */
  timeoutMs?: number | undefined;
  /** Called with what it writes, as it comes. A promise is waited for; a throw kills the command. */
  onStdout?: OutputCallback | undefined;
  onStderr?: OutputCallback | undefined;
  /** Throw a {@link CommandExitError} where it does not succeed. */
  check?: boolean | undefined;
  /** Most bytes that the result keeps of each stream, head and tail; default 1 MiB. */
  maxOutput?: number | undefined;
  /** In the background: a name to find it by. */
  tag?: string | undefined;
  /** Kills the command and everything that it started. In the background it ends the start alone. */
  signal?: AbortSignal | undefined;
}

const outputShape: Shape = { onStdout: callback, onStderr: callback, check: flag, maxOutput: count, signal: abort };
const runShape: Shape = {
  ...outputShape, background: flag, envs: textMap, env: textMap, cwd: text, workdir: text, user: text, timeoutMs: time, tag: text,
};
const connectShape: Shape = { ...outputShape, from: oneOf("start", "end") };

/** Input up to this goes with the request that starts the command. */
const inlineInput = 1 << 20;

/** Runs commands in a sandbox. */
export class Commands {
  readonly #box: Box;

  /** @internal */
  constructor(box: Box) {
    this.#box = box;
  }

  /** Runs a command. One that fails is not an error, unless `check` is set: look at `exitCode`. */
  run(command: Command, options: RunOptions & { background: true }): Promise<CommandHandle>;
  run(command: Command, options?: RunOptions & { background?: false }): Promise<CommandResult>;
  run(command: Command, options?: RunOptions): Promise<CommandResult | CommandHandle>;
  async run(command: Command, options: RunOptions = {}): Promise<CommandResult | CommandHandle> {
    checkCommand(command);
    checkOptions("exec", options, runShape);
    return options.background === true ? this.#start(command, options) : this.#wait(command, options);
  }

  /** Lists what was started, with those that ended a while ago. */
  async list(options: { signal?: AbortSignal } = {}): Promise<ProcessInfo[]> {
    const reply = await this.#box.json(this.#box.call("list processes", "GET", "/processes", { signal: options.signal }));
    return fromWire<{ processes: ProcessInfo[] }>(reply).processes;
  }

  /** Returns a handle on something that was started, by this program or another. */
  async connect(pid: number, options: Pick<RunOptions, "onStdout" | "onStderr" | "check" | "maxOutput" | "signal"> & {
    /** Where output begins: with all that is kept of it (64 MiB), or with what is written from now on. Default start. */
    from?: "start" | "end";
  } = {}): Promise<CommandHandle> {
    checkOptions("find process", options, connectShape);
    const info = fromWire<ProcessInfo>(await this.#box.json(
      this.#box.call("find process", "GET", `/processes/${checkPid(pid)}`, { signal: options.signal }),
    ));
    return new CommandHandle(this.#box, pid, info.command, options);
  }

  /** Kills a process and everything that it started. Returns whether there was one. */
  async kill(pid: number, options: { signal?: AbortSignal } = {}): Promise<boolean> {
    return this.#handle(pid).kill(options);
  }

  /** Writes to the standard input of a process that was started with `stdin: true`. */
  async sendStdin(pid: number, data: Input, options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.#handle(pid).sendStdin(data, options);
  }

  /** Ends the standard input of a process. */
  async closeStdin(pid: number, options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.#handle(pid).closeStdin(options);
  }

  #handle(pid: number): CommandHandle {
    return new CommandHandle(this.#box, checkPid(pid), [], {});
  }

  async #wait(command: Command, options: RunOptions): Promise<CommandResult> {
    if (options.stdin === true) {
      throw new InvalidError("exec: nobody could write to the standard input of a command that is waited for", {
        hint: "pass the input itself, or set background: true",
      });
    }
    const input = inputOf(options);
    const inline = input instanceof Uint8Array && input.length <= inlineInput;
    const streamed = input !== undefined && !inline;
    const stop = new AbortController();
    const signal = options.signal === undefined ? stop.signal : AbortSignal.any([stop.signal, options.signal]);
    const call = this.#box.call("exec", "POST", "/exec", {
      signal,
      query: { stdin: streamed || undefined },
      json: { ...request(command, options), ...(inline && input.length > 0 ? { stdin: Buffer.from(input).toString("base64"), encoding: "base64" } : {}) },
    });
    const collector = new Collector(options);
    let feeding: Promise<void> | undefined;
    try {
      const result = await collector.collect(frames(this.#box.transport, call), (pid) => {
        if (streamed) {
          feeding = feed(new CommandHandle(this.#box, pid, [], {}), input, stop, signal);
        }
      });
      if (options.check && !result.success) {
        throw new CommandExitError(command, result);
      }
      return result;
    } catch (err) {
      options.signal?.throwIfAborted();
      throw stop.signal.aborted ? stop.signal.reason : err;
    } finally {
      if (!stop.signal.aborted) {
        stop.abort(); // a stream whose command has ended is not read any more
      }
      await feeding;
    }
  }

  async #start(command: Command, options: RunOptions): Promise<CommandHandle> {
    const input = inputOf(options);
    const reply = fromWire<ProcessInfo>(await this.#box.json(this.#box.call("start", "POST", "/processes", {
      signal: options.signal,
      json: { ...request(command, options), stdin: options.stdin === true || input !== undefined || undefined, tag: options.tag },
    })));
    const handle = new CommandHandle(this.#box, reply.pid, command, { ...options, signal: undefined });
    if (input !== undefined) {
      handle.feed(input);
    }
    return handle;
  }
}

/** Sends input while a command runs. What its source throws kills the command; what the command does not take is lost. */
async function feed(handle: CommandHandle, input: Uint8Array | AsyncIterable<Uint8Array>, stop: AbortController, signal: AbortSignal): Promise<void> {
  let failed: unknown;
  try {
    await handle.pour(watched(input, (err) => {
      failed = err;
    }), true, signal);
  } catch {
    if (failed !== undefined) {
      stop.abort(failed);
    } else if (!signal.aborted) {
      // It closed its input or is ending. Where it is not, it must not wait for more.
      await handle.closeStdin({ signal }).catch(() => undefined);
    }
  }
}

function inputOf(options: RunOptions): Uint8Array | AsyncIterable<Uint8Array> | undefined {
  const { stdin } = options;
  return stdin === undefined || typeof stdin === "boolean" ? undefined : toBody("exec", stdin);
}

function request(command: Command, options: RunOptions): Record<string, unknown> {
  const env = options.envs === undefined ? options.env : { ...options.env, ...options.envs };
  return { command, cwd: options.cwd ?? options.workdir, env, user: options.user, timeout: duration(options.timeoutMs) };
}

export function checkCommand(command: unknown, op = "exec"): void {
  const ok = typeof command === "string" ? command !== "" : Array.isArray(command) && command.length > 0 && command.every((word) => typeof word === "string");
  if (!ok) {
    throw new InvalidError(`${op}: a command is a line for the shell or an array of strings, and not empty`, {
      hint: 'pass "ls -l" or ["ls", "-l"]',
    });
  }
}

export function checkPid(pid: number): number {
  if (!Number.isSafeInteger(pid) || pid < 1) {
    throw new InvalidError(`find process: ${String(pid)} is not a process id`, { hint: "see commands.list() for those that there are" });
  }
  return pid;
}
