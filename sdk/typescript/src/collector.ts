import { CommandResult, Excerpt, TextPieces } from "./output.js";
import type { Exit, Frame } from "./stream.js";

/** Gets output as it comes: as text, in which no character is cut, and as the bytes that arrived. */
export type OutputCallback = (text: string, data: Uint8Array) => unknown;

/** What is to be done with output. */
export interface CollectOptions {
  onStdout?: OutputCallback | undefined;
  onStderr?: OutputCallback | undefined;
  maxOutput?: number | undefined;
  from?: "start" | "end";
}

const defaultMaxOutput = 1 << 20;

/** Reads what a process does to its end. */
export class Collector {
  readonly #options: CollectOptions;
  readonly #stdout: Excerpt;
  readonly #stderr: Excerpt;
  /** Where each stream goes on. A jump means that bytes are no longer kept. */
  readonly #next: { stdout: number | undefined; stderr: number | undefined };
  #jumped = false;
  readonly #texts = { stdout: new TextPieces(), stderr: new TextPieces() };

  constructor(options: CollectOptions) {
    this.#options = options;
    const limit = options.maxOutput ?? defaultMaxOutput;
    this.#stdout = new Excerpt(limit);
    this.#stderr = new Excerpt(limit);
    const begin = options.from === "end" ? undefined : 0;
    this.#next = { stdout: begin, stderr: begin };
  }

  async collect(source: AsyncIterable<Frame>, started: (pid: number) => void = () => undefined): Promise<CommandResult> {
    let pid = 0;
    let exit: Exit | undefined;
    for await (const frame of source) {
      if (frame.kind === "start") {
        pid = frame.pid;
        started(pid);
      } else if (frame.kind === "exit") {
        exit = frame.exit;
      } else {
        const name = frame.stream === "stderr" ? "stderr" : "stdout";
        this.#jumped ||= frame.offset > (this.#next[name] ?? frame.offset);
        this.#next[name] = frame.offset + frame.data.length;
        (name === "stdout" ? this.#stdout : this.#stderr).add(frame.data);
        await this.#tell(name, this.#texts[name].next(frame.data), frame.data);
      }
    }
    if (exit === undefined) {
      throw new Error("the output ended without an exit"); // frames() has seen to that
    }
    for (const name of ["stdout", "stderr"] as const) {
      const rest = this.#texts[name].end();
      if (rest !== "") {
        await this.#tell(name, rest, new Uint8Array(0));
      }
    }
    const stdout = this.#stdout.bytes(), stderr = this.#stderr.bytes();
    return new CommandResult(pid, exit, stdout, stderr, this.#jumped || this.#stdout.truncated || this.#stderr.truncated);
  }

  async #tell(name: "stdout" | "stderr", text: string, data: Uint8Array): Promise<void> {
    const callback = name === "stdout" ? this.#options.onStdout : this.#options.onStderr;
    if (callback !== undefined) {
      await callback(text, data);
    }
  }
}
