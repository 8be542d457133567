import type { Box } from "./box.js";
import { abort, checkOptions, checkValue, either, flag, positive, text } from "./check.js";
import { Collector, type CollectOptions } from "./collector.js";
import { NotFoundError } from "./errors.js";
import { toBody, type Input } from "./input.js";
import { CommandExitError, TextPieces, type CommandResult, type OutputChunk } from "./output.js";
import { frames, type Exit, type Frame, type StreamName } from "./stream.js";
import { fromWire } from "./wire.js";

/** Something that was started in a sandbox. */
export interface ProcessInfo {
  pid: number;
  command: string[];
  cwd?: string;
  user?: string;
  tag?: string;
  tty?: boolean;
  running: boolean;
  startedAt: Date;
  /** Bytes written so far; the last 64 MiB are kept. */
  stdoutBytes: number;
  stderrBytes: number;
  exit?: Exit;
}

interface HandleOptions extends CollectOptions {
  check?: boolean | undefined;
  signal?: AbortSignal | undefined;
}

const signalName = either(text, positive);

/** A command that runs in the background. Iterating it yields its output as it comes. */
export class CommandHandle implements AsyncIterable<OutputChunk> {
  /** Process id inside the sandbox. */
  readonly pid: number;
  /** Standard output alone: iterate it for text, or its `bytes()`. */
  readonly stdout: OutputReader;
  readonly stderr: OutputReader;
  readonly #box: Box;
  readonly #command: string | readonly string[];
  readonly #options: HandleOptions;
  readonly #leave = new AbortController();
  #result: Promise<CommandResult> | undefined;
  #fed: Promise<void> | undefined;
  #inputError: { err: unknown } | undefined;

  /** @internal */
  constructor(box: Box, pid: number, command: string | readonly string[], options: HandleOptions) {
    this.#box = box;
    this.pid = pid;
    this.#command = command;
    this.#options = options;
    this.stdout = new OutputReader(this, "stdout");
    this.stderr = new OutputReader(this, "stderr");
    if (options.onStdout !== undefined || options.onStderr !== undefined) {
      this.#collect().catch(() => undefined); // wait tells
    }
  }

  /** Waits for its end. `signal` ends the waiting, not the command. */
  async wait(options: { check?: boolean; signal?: AbortSignal } = {}): Promise<CommandResult> {
    checkOptions("wait", options, { check: flag, signal: abort });
    const result = await abortable(this.#collect(), options.signal);
    await this.#fed;
    if (this.#inputError !== undefined) {
      throw this.#inputError.err;
    }
    if ((options.check ?? this.#options.check) && !result.success) {
      throw new CommandExitError(this.#command, result);
    }
    return result;
  }

  /** Kills it and everything that it started, and returns when all of that is dead: whether there was something. */
  async kill(options: { signal?: AbortSignal } = {}): Promise<boolean> {
    try {
      await this.#box.json(this.#box.call("kill", "DELETE", `/processes/${this.pid}`, { signal: options.signal }));
      return true;
    } catch (err) {
      if (err instanceof NotFoundError) {
        return false;
      }
      throw err;
    }
  }

  /** Sends a signal to the process alone, by name or number. */
  async sendSignal(signal: string | number, options: { signal?: AbortSignal } = {}): Promise<void> {
    checkValue("signal", "the signal", signal, signalName);
    await this.#box.json(this.#box.call("signal", "POST", `/processes/${this.pid}/signal`, { json: { signal: String(signal) }, signal: options.signal }));
  }

  /** Writes to its standard input, which `stdin: true` has kept open. */
  async sendStdin(data: Input, options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.pour(toBody("write stdin", data), false, options.signal);
  }

  /** Ends its standard input. */
  async closeStdin(options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.pour(new Uint8Array(0), true, options.signal);
  }

  /** What it is and how it stands. */
  async getInfo(options: { signal?: AbortSignal } = {}): Promise<ProcessInfo> {
    return fromWire<ProcessInfo>(await this.#box.json(this.#box.call("find process", "GET", `/processes/${this.pid}`, { signal: options.signal })));
  }

  /** Stops calling `onStdout` and `onStderr`. The command goes on. */
  disconnect(): void {
    this.#leave.abort();
  }

  /** Yields its output, from where the handle begins until it has ended. Every iteration reads anew. */
  async *[Symbol.asyncIterator](): AsyncGenerator<OutputChunk, void, undefined> {
    const texts = new Map<StreamName, TextPieces>();
    for await (const frame of this.follow()) {
      if (frame.kind === "data") {
        const pieces = texts.get(frame.stream) ?? new TextPieces();
        texts.set(frame.stream, pieces);
        yield { stream: frame.stream, text: pieces.next(frame.data), data: frame.data };
      }
    }
    for (const [stream, pieces] of texts) {
      const text = pieces.end();
      if (text !== "") {
        yield { stream, text, data: new Uint8Array(0) };
      }
    }
  }

  /** @internal */
  follow(only?: StreamName): AsyncGenerator<Frame, void, undefined> {
    const from = this.#options.from === "end" ? "end" : "0";
    const call = this.#box.call("read output", "GET", `/processes/${this.pid}/output`, {
      query: { stdout_offset: only === "stderr" ? "end" : from, stderr_offset: only === "stdout" ? "end" : from, follow: true },
      signal: this.#leave.signal,
    });
    return frames(this.#box.transport, call);
  }

  /** @internal */
  async pour(body: Uint8Array | AsyncIterable<Uint8Array>, close: boolean, signal?: AbortSignal): Promise<void> {
    await this.#box.json(this.#box.call("write stdin", "POST", `/processes/${this.pid}/stdin`, { body, query: { close: close || undefined }, signal }));
  }

  /** @internal Sends all of the standard input while the command runs. */
  feed(body: Uint8Array | AsyncIterable<Uint8Array>): void {
    // What it does not take is lost, as in a pipe; a source that fails ends the input, and wait tells.
    this.#fed = this.pour(watched(body, (err) => {
      this.#inputError = { err };
    }), true).catch(() => this.closeStdin().catch(() => undefined));
  }

  #collect(): Promise<CommandResult> {
    return (this.#result ??= new Collector(this.#options).collect(this.follow()));
  }
}

/** One output of a command in the background, as text; multi-byte characters arrive whole. */
export class OutputReader implements AsyncIterable<string> {
  readonly #handle: CommandHandle;
  readonly #name: StreamName;

  /** @internal */
  constructor(handle: CommandHandle, name: StreamName) {
    this.#handle = handle;
    this.#name = name;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
    const pieces = new TextPieces();
    for await (const data of this.bytes()) {
      const text = pieces.next(data);
      if (text !== "") {
        yield text;
      }
    }
    const rest = pieces.end();
    if (rest !== "") {
      yield rest;
    }
  }

  /** The same as iterating it. */
  stream(): AsyncGenerator<string, void, undefined> {
    return this[Symbol.asyncIterator]();
  }

  /** Yields the bytes as they come. */
  async *bytes(): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const frame of this.#handle.follow(this.#name)) {
      if (frame.kind === "data" && (frame.stream === "stderr") === (this.#name === "stderr")) {
        yield frame.data;
      }
    }
  }
}

/** Tells a source's own error from one of sending. */
export async function* watched(input: Uint8Array | AsyncIterable<Uint8Array>, failed: (err: unknown) => void): AsyncGenerator<Uint8Array, void, undefined> {
  if (input instanceof Uint8Array) {
    yield input;
    return;
  }
  try {
    yield* input;
  } catch (err) {
    failed(err ?? new Error("the input failed"));
    throw err;
  }
}

/** Settles as a promise does, or rejects when the signal fires, whichever comes first. */
export async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) {
    return promise;
  }
  promise.catch(() => undefined); // it may fail when nobody waits any more
  checkValue("wait", "signal", signal, abort);
  signal.throwIfAborted();
  let stop = (): void => undefined;
  try {
    return await Promise.race([promise, new Promise<never>((_, fail) => {
      stop = () => fail(signal.reason as Error);
      signal.addEventListener("abort", stop, { once: true });
    })]);
  } finally {
    signal.removeEventListener("abort", stop);
  }
}
