import { CoveError } from "./errors.js";
import type { Exit, StreamName } from "./stream.js";

/** How a command ended and what it wrote. */
export class CommandResult {
  /** Process id inside the sandbox. */
  readonly pid: number;
  /** -1 when a signal ended it. */
  readonly exitCode: number;
  /** The signal that ended it, as in SIGKILL. */
  readonly signal: string | undefined;
  /** Whether its timeout ended it. */
  readonly timedOut: boolean;
  /** Whether bytes between head and tail of a stream were left out. */
  readonly truncated: boolean;
  /** In milliseconds. */
  readonly duration: number;
  /** What it wrote, as it is. */
  readonly stdoutBytes: Uint8Array;
  readonly stderrBytes: Uint8Array;
  #stdout: string | undefined;
  #stderr: string | undefined;

  /** @internal */
  constructor(pid: number, exit: Exit, stdout: Uint8Array, stderr: Uint8Array, truncated: boolean) {
    this.pid = pid;
    this.exitCode = exit.code;
    this.signal = exit.signal;
    this.timedOut = exit.timedOut;
    this.truncated = truncated;
    this.duration = exit.durationMs;
    this.stdoutBytes = stdout;
    this.stderrBytes = stderr;
  }

  /** What it wrote, as text; bytes that are not UTF-8 are replaced. */
  get stdout(): string {
    return (this.#stdout ??= decode(this.stdoutBytes));
  }

  get stderr(): string {
    return (this.#stderr ??= decode(this.stderrBytes));
  }

  /** Whether the exit code is 0. */
  get success(): boolean {
    return this.exitCode === 0 && !this.timedOut;
  }

  /** The result as plain data. */
  toJSON(): Record<string, unknown> {
    const { pid, stdout, stderr, exitCode, signal, timedOut, truncated, duration } = this;
    return { pid, stdout, stderr, exitCode, signal, timedOut, truncated, duration };
  }
}

/** The error of a command that ran and did not succeed, where that was asked for with `check`. */
export class CommandExitError extends CoveError {
  readonly result: CommandResult;

  constructor(command: string | readonly string[], result: CommandResult) {
    const shown = typeof command === "string" ? command : command.join(" ");
    const line = shown.length > 80 ? shown.slice(0, 79) + "…" : shown;
    const last = (result.stderr.trim() || result.stdout.trim()).split("\n").slice(-3).join("\n");
    const end = result.timedOut ? "timed out" : result.signal ? `signal ${result.signal}` : `exit status ${result.exitCode}`;
    super("exit", `${JSON.stringify(line)}: ${end}${last === "" ? "" : `: ${last.slice(-500)}`}`, { exitCode: result.exitCode });
    this.result = result;
  }

  get stdout(): string {
    return this.result.stdout;
  }

  get stderr(): string {
    return this.result.stderr;
  }
}

function decode(data: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(data);
}

/** Keeps the first and the last half of a limit. */
export class Excerpt {
  readonly #half: number;
  readonly #head: Uint8Array[] = [];
  #headSize = 0;
  #tail: Uint8Array[] = [];
  #tailSize = 0;
  #dropped = false;

  constructor(limit: number) {
    this.#half = Math.ceil(limit / 2);
  }

  get truncated(): boolean {
    return this.#dropped;
  }

  add(data: Uint8Array): void {
    const room = Math.min(this.#half - this.#headSize, data.length);
    if (room > 0) {
      this.#head.push(data.subarray(0, room));
      this.#headSize += room;
    }
    if (room === data.length) {
      return;
    }
    this.#tail.push(data.subarray(room));
    this.#tailSize += data.length - room;
    // Twice what is kept, so that dropping is rare and what it costs does not add up.
    if (this.#tailSize > 2 * this.#half) {
      this.#trim();
    }
  }

  /** What was kept. {@link truncated} is settled from then on. */
  bytes(): Uint8Array {
    this.#trim();
    const tail = this.#tail;
    if (!this.#dropped) {
      return new Uint8Array(Buffer.concat([...this.#head, ...tail]));
    }
    return new Uint8Array(Buffer.concat([wholeEnd(Buffer.concat(this.#head)), wholeStart(Buffer.concat(tail))]));
  }

  #trim(): void {
    if (this.#tailSize <= this.#half) {
      return;
    }
    const all = Buffer.concat(this.#tail);
    this.#tail = [all.subarray(all.length - this.#half)];
    this.#tailSize = this.#half;
    this.#dropped = true;
  }
}

const isContinuation = (byte: number | undefined): boolean => byte !== undefined && (byte & 0xc0) === 0x80;

/** Leaves out a character of UTF-8 that the cut left without its end. */
function wholeEnd(data: Uint8Array): Uint8Array {
  let start = data.length - 1;
  while (start >= 0 && data.length - start < 4 && isContinuation(data[start])) {
    start--;
  }
  const first = data[start] ?? 0;
  const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
  return start >= 0 && data.length - start < length ? data.subarray(0, start) : data;
}

/** Leaves out the end of a character of UTF-8 whose begin was cut off. */
function wholeStart(data: Uint8Array): Uint8Array {
  let start = 0;
  while (start < 3 && isContinuation(data[start])) {
    start++;
  }
  return data.subarray(start);
}

/** A piece of output. Text may lag behind bytes: a character that is cut is told with its rest. */
export interface OutputChunk {
  stream: StreamName;
  text: string;
  data: Uint8Array;
}

/** Turns the bytes of one stream into text, keeping what is cut for the next piece. */
export class TextPieces {
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  next(data: Uint8Array): string {
    return this.#decoder.decode(data, { stream: true });
  }

  end(): string {
    return this.#decoder.decode();
  }
}
