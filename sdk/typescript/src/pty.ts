import type { Box } from "./box.js";
import { callback, chunk, checkOptions, checkValue, oneOf, positive, text, textMap, time, type Shape } from "./check.js";
import { checkCommand, checkPid, type Command } from "./commands.js";
import { broken, errorOfBody } from "./errors.js";
import { abortable, CommandHandle, type ProcessInfo } from "./handle.js";
import type { Exit } from "./stream.js";
import { onAbort } from "./transport.js";
import { duration, fromWire } from "./wire.js";
import { WebSocket } from "./websocket.js";

export interface TerminalSize {
  cols: number;
  rows: number;
}

/** How to look at a terminal. */
export interface AttachOptions {
  /** Gets what it shows. A promise is waited for. */
  onData?: ((data: Uint8Array) => unknown) | undefined;
  /** Resizes it at once. */
  size?: TerminalSize | undefined;
  /** Begin with all that is kept, or with what is shown from now on. Default of connect: end. */
  from?: "start" | "end";
  /** Ends the connection, not the process. */
  signal?: AbortSignal | undefined;
}

/** What to start in a terminal. */
export interface PtyOptions extends Omit<AttachOptions, "size" | "from"> {
  /** Default 80. */
  cols?: number;
  /** Default 24. */
  rows?: number;
  /** Default: bash, or sh where there is none. */
  command?: Command;
  cwd?: string | undefined;
  envs?: Readonly<Record<string, string>> | undefined;
  user?: string | undefined;
  /** Default never. */
  timeoutMs?: number | undefined;
}

const sizeShape: Shape = { cols: positive, rows: positive };
const createShape: Shape = { ...sizeShape, cwd: text, envs: textMap, user: text, timeoutMs: time, onData: callback };

const shell = 'exec "$(command -v bash || command -v sh)" -i';
/** A large paste neither exceeds what the daemon takes at once nor delays a resize by much. */
const pasteBytes = 32 << 10;

/** Terminals of a sandbox. */
export class Pty {
  readonly #box: Box;

  /** @internal */
  constructor(box: Box) {
    this.#box = box;
  }

  /** Starts a command in a terminal, and connects to it. */
  async create(options: PtyOptions = {}): Promise<PtyHandle> {
    checkOptions("start", options, createShape);
    if (options.command !== undefined) {
      checkCommand(options.command, "start");
    }
    const { cols = 80, rows = 24 } = options;
    const reply = fromWire<ProcessInfo>(await this.#box.json(this.#box.call("start", "POST", "/processes", {
      signal: options.signal,
      json: {
        command: options.command ?? shell, cwd: options.cwd, user: options.user, timeout: duration(options.timeoutMs),
        env: { TERM: "xterm-256color", ...options.envs }, tty: { cols, rows },
      },
    })));
    return this.connect(reply.pid, { onData: options.onData, signal: options.signal, from: "start" });
  }

  /** Connects to the terminal of something that was started. */
  async connect(pid: number, options: AttachOptions = {}): Promise<PtyHandle> {
    checkOptions("attach terminal", options, { onData: callback, from: oneOf("start", "end") });
    if (options.size !== undefined) {
      checkOptions("attach terminal", options.size, sizeShape, "size");
    }
    const call = this.#box.call("attach terminal", "GET", `/processes/${checkPid(pid)}/tty`, {
      query: { offset: options.from === "start" ? "0" : "end", cols: options.size?.cols, rows: options.size?.rows },
      signal: options.signal,
    });
    return new PtyHandle(this.#box, pid, await WebSocket.connect(this.#box.transport, call), options);
  }

  /** Types into a terminal. */
  async sendInput(pid: number, data: string | Uint8Array): Promise<void> {
    checkValue("write terminal", "the data", data, chunk);
    await new CommandHandle(this.#box, checkPid(pid), [], {}).pour(typeof data === "string" ? Buffer.from(data) : data, false);
  }

  async resize(pid: number, size: TerminalSize): Promise<void> {
    checkOptions("resize", size, sizeShape, "the size");
    await this.#box.json(this.#box.call("resize", "POST", `/processes/${checkPid(pid)}/resize`, { json: { cols: size.cols, rows: size.rows } }));
  }

  /** Kills what runs in a terminal and everything that it started. Returns whether there was one. */
  async kill(pid: number): Promise<boolean> {
    return new CommandHandle(this.#box, checkPid(pid), [], {}).kill();
  }
}

/** A connection to a terminal. With `onData` it reads by itself; without, iterate it. */
export class PtyHandle implements AsyncIterable<Uint8Array> {
  readonly pid: number;
  readonly #box: Box;
  readonly #socket: WebSocket;
  readonly #signal: AbortSignal | undefined;
  readonly #stop: () => void;
  #left = false;
  #exit: Exit | undefined;
  #reading: AsyncGenerator<Uint8Array, void, undefined> | undefined;
  #pump: Promise<void> | undefined;

  /** @internal */
  constructor(box: Box, pid: number, socket: WebSocket, options: AttachOptions) {
    this.pid = pid;
    this.#box = box;
    this.#socket = socket;
    this.#signal = options.signal;
    this.#stop = onAbort(options.signal, (reason) => socket.destroy(reason));
    if (options.onData !== undefined) {
      this.#drain(options.onData).catch(() => undefined); // wait tells
    }
  }

  /** How the process ended, once that was seen. */
  get exit(): Exit | undefined {
    return this.#exit;
  }

  /** Types. */
  async write(data: string | Uint8Array): Promise<void> {
    checkValue("write terminal", "the data", data, chunk);
    const bytes = typeof data === "string" ? Buffer.from(data) : data;
    try {
      for (let sent = 0; sent < bytes.length; sent += pasteBytes) {
        await this.#socket.send(bytes.subarray(sent, sent + pasteBytes));
      }
    } catch (err) {
      throw broken("write terminal", err);
    }
  }

  /** The same as write. */
  sendInput(data: string | Uint8Array): Promise<void> {
    return this.write(data);
  }

  /** The same as write. */
  sendStdin(data: string | Uint8Array): Promise<void> {
    return this.write(data);
  }

  async resize(size: TerminalSize): Promise<void> {
    checkOptions("resize", size, sizeShape, "the size");
    await this.#socket.send(JSON.stringify({ resize: { cols: size.cols, rows: size.rows } })).catch((err: unknown) => {
      throw broken("resize", err);
    });
  }

  /** Waits for its end. What it shows meanwhile, and nobody iterates over, is dropped. */
  async wait(options: { signal?: AbortSignal } = {}): Promise<Exit> {
    await abortable(this.#drain(() => undefined), options.signal);
    if (this.#exit === undefined) {
      throw broken("attach terminal", new Error("this side disconnected"));
    }
    return this.#exit;
  }

  /** Kills what runs in it and everything that it started. Returns whether there was something. */
  async kill(): Promise<boolean> {
    return new CommandHandle(this.#box, this.pid, [], {}).kill();
  }

  /** Leaves it. What runs in it goes on. */
  async disconnect(): Promise<void> {
    this.#left = true;
    this.#stop();
    await this.#socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.disconnect();
  }

  /** Yields what it shows, once: there is one connection, which ends with the process. */
  [Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    return (this.#reading ??= this.#read());
  }

  #drain(onData: (data: Uint8Array) => unknown): Promise<void> {
    return (this.#pump ??= (async () => {
      for await (const data of this) {
        await onData(data);
      }
    })());
  }

  async *#read(): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      for await (const message of this.#socket.messages()) {
        if ("data" in message) {
          yield message.data;
          continue;
        }
        const value = JSON.parse(message.text) as { exit?: unknown; error?: unknown };
        if (value.error !== undefined) {
          throw errorOfBody(value.error, "attach terminal");
        }
        if (value.exit !== undefined) {
          this.#exit = fromWire<Exit>(value.exit);
          return;
        }
      }
      if (!this.#left) {
        throw new Error("it ended before the process did");
      }
    } catch (err) {
      this.#signal?.throwIfAborted();
      if (!this.#left) {
        throw broken("attach terminal", err);
      }
    } finally {
      this.#stop();
    }
  }
}
