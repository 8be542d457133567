import { constants } from "node:fs";
import { open, mkdir, rename, rm, stat } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import { basename, dirname, join, posix, sep } from "node:path";
import { randomBytes } from "node:crypto";
import { ReadableStream } from "node:stream/web";

import type { Box } from "./box.js";
import { plain, readAll } from "./bytes.js";
import { abort, callback, checkOptions, checkValue, flag, list, mode, oneOf, positive, text, type Shape } from "./check.js";
import { hostError, LeftOut, pack, unpack, writeAll } from "./copy.js";
import { broken, ConflictError, InvalidError, NotFoundError } from "./errors.js";
import { toBody, type Input } from "./input.js";
import { subscribe } from "./stream.js";
import type { Call, Query } from "./transport.js";
import type { CallOptions } from "./types.js";
import { fromWire } from "./wire.js";

/** What a path leads to. */
export interface FileInfo {
  name: string;
  /** Absolute. */
  path: string;
  type: "file" | "directory" | "symlink" | "other";
  size: number;
  /** Permission bits. */
  mode: number;
  owner: string;
  group: string;
  modifiedAt: Date;
  /** Where a symlink points. */
  target?: string;
  metadata?: Record<string, string>;
}

/** Something that happened below a directory. */
export interface FileEvent {
  type: "create" | "write" | "remove" | "rename" | "chmod";
  /** Path below the watched directory. */
  name: string;
  info?: FileInfo;
}

/** With whose rights, and until when. */
export interface FileOptions extends CallOptions {
  /** Default: the sandbox's user. */
  user?: string | undefined;
}

export interface WriteOptions extends FileOptions {
  /** Permission bits; default 0644. */
  mode?: number | undefined;
}

/** One file of {@link Files.writeFiles}. */
export interface WriteEntry {
  path: string;
  data: Input;
  mode?: number;
}

export interface WatchOptions extends FileOptions {
  /** Also everything below it. */
  recursive?: boolean;
  /** Called when the watch ends by itself: with what broke it. */
  onExit?: ((err: Error) => unknown) | undefined;
}

/** Bounds a file that is read at once: the longest array of bytes that every Node has. */
const maxRead = 2 ** 31 - 1;
const parallelWrites = 8;
/** What any of the options has to be. */
const shape: Shape = {
  user: text, mode, depth: positive, recursive: flag, onExit: callback, format: oneOf("text", "bytes", "stream"),
};

/** Reads and writes the files of a sandbox. A relative path is below its working directory. */
export class Files {
  readonly #box: Box;

  /** @internal */
  constructor(box: Box) {
    this.#box = box;
  }

  /** Returns the content of a file: as text, where bytes that are not UTF-8 are replaced, as bytes, or as a stream of bytes. */
  read(path: string, options?: FileOptions & { format?: "text" }): Promise<string>;
  read(path: string, options: FileOptions & { format: "bytes" }): Promise<Uint8Array>;
  read(path: string, options: FileOptions & { format: "stream" }): Promise<ReadableStream<Uint8Array>>;
  async read(path: string, options: FileOptions & { format?: "text" | "bytes" | "stream" } = {}): Promise<string | Uint8Array | ReadableStream<Uint8Array>> {
    const { format = "text" } = options;
    const call = this.#call("read file", "GET", "", path, options);
    const response = await this.#box.transport.send({ ...call, accept: "*/*" });
    if (format === "stream") {
      return ReadableStream.from(content(call, response)) as ReadableStream<Uint8Array>;
    }
    const data = await readAll(content(call, response), maxRead);
    return format === "bytes" ? data : new TextDecoder("utf-8", { ignoreBOM: true }).decode(data);
  }

  /** Writes a file, making its parents where they are missing. */
  async write(path: string, data: Input, options: WriteOptions = {}): Promise<FileInfo> {
    const call = this.#call("write file", "PUT", "", path, options, { mode: modeText(options.mode) });
    return fromWire(await this.#box.json({ ...call, body: toBody(call.op, data) }));
  }

  /** Writes several files, some of them at the same time. */
  async writeFiles(files: readonly WriteEntry[], options: FileOptions = {}): Promise<FileInfo[]> {
    checkValue("write files", "the argument", files, list);
    files.forEach((file) => checkOptions("write files", file, { path: text, mode }, "one of the files"));
    const out: FileInfo[] = new Array<FileInfo>(files.length);
    const queue = files.entries(); // which the workers share
    const worker = async (): Promise<void> => {
      for (const [i, file] of queue) {
        out[i] = await this.write(file.path, file.data, { ...options, mode: file.mode });
      }
    };
    await Promise.all(Array.from({ length: Math.min(parallelWrites, files.length) }, worker));
    return out;
  }

  /** Lists what a directory holds, as many levels deep as asked for; default 1. */
  async list(path = ".", options: FileOptions & { depth?: number } = {}): Promise<FileInfo[]> {
    const call = this.#call("list directory", "GET", "/list", path, options, { depth: options.depth });
    return fromWire<{ entries: FileInfo[] | null }>(await this.#box.json(call)).entries ?? [];
  }

  /** Whether there is something at a path; a symlink counts, wherever it points. */
  async exists(path: string, options: FileOptions = {}): Promise<boolean> {
    try {
      await this.getInfo(path, options);
      return true;
    } catch (err) {
      if (err instanceof NotFoundError) {
        // Also of a sandbox that is gone, which is no answer.
        if (this.#isOwn(err)) {
          throw err;
        }
        return false;
      }
      throw err;
    }
  }

  /** Describes what a path leads to; a symlink is described itself. */
  async getInfo(path: string, options: FileOptions = {}): Promise<FileInfo> {
    return fromWire(await this.#box.json(this.#call("stat", "GET", "/stat", path, options)));
  }

  /** Makes a directory and its parents. Returns false where it is there already. */
  async makeDir(path: string, options: FileOptions = {}): Promise<boolean> {
    checkPath("make directory", path);
    checkOptions("make directory", options, shape);
    try {
      await this.#box.json(this.#box.call("make directory", "POST", "/files/mkdir", {
        json: { path, user: options.user }, signal: options.signal,
      }));
      return true;
    } catch (err) {
      if (err instanceof ConflictError && (await this.#isDir(path, options))) {
        return false;
      }
      throw err;
    }
  }

  /** Renames a file or directory, making the parents of its new path. */
  async rename(from: string, to: string, options: FileOptions = {}): Promise<FileInfo> {
    checkPath("move", from);
    checkPath("move", to);
    checkOptions("move", options, shape);
    return fromWire(await this.#box.json(this.#box.call("move", "POST", "/files/move", {
      json: { from, to, user: options.user }, signal: options.signal,
    })));
  }

  /** Removes a file, or a directory with everything in it. Succeeds where there is nothing. */
  async remove(path: string, options: FileOptions = {}): Promise<void> {
    await this.#box.json(this.#call("remove file", "DELETE", "", path, options));
  }

  /** Reports what happens in a directory from now on: to onEvent, or to who iterates over the handle. */
  async watchDir(path: string, onEvent?: (event: FileEvent) => unknown, options: WatchOptions = {}): Promise<WatchHandle> {
    checkOptions("watch", options, { ...shape, signal: abort });
    if (onEvent !== undefined) {
      checkValue("watch", "onEvent", onEvent, callback);
    }
    const stop = new AbortController();
    const signal = options.signal === undefined ? stop.signal : AbortSignal.any([stop.signal, options.signal]);
    const call = this.#call("watch", "GET", "/watch", path, { ...options, signal }, { recursive: options.recursive ?? false });
    return new WatchHandle(await subscribe(this.#box.transport, call), stop, onEvent, options.onExit);
  }

  /**
   * Copies a file or directory of this machine into the sandbox. A file goes to the path,
   * or into it where that is a directory or ends in a slash; of a directory, what it holds
   * goes below the path, as one archive. Modes, times and symlinks are kept.
   */
  async upload(hostPath: string, path: string, options: FileOptions = {}): Promise<void> {
    const op = "upload";
    checkValue(op, "the path of this machine", hostPath, text);
    checkPath(op, path);
    const info = await stat(hostPath).catch((err: unknown) => {
      throw hostError(op, hostPath, err);
    });
    if (!info.isDirectory()) {
      const into = path.endsWith("/") || (await this.#isDir(path, options));
      const target = into ? posix.join(path, basename(hostPath)) : path;
      await this.write(target, filePieces(op, hostPath), { ...options, mode: info.mode & 0o777 });
      return;
    }
    const left = new LeftOut();
    const call = this.#call("extract", "PUT", "/archive", path, options);
    await this.#box.json({ ...call, headers: { "Content-Type": "application/x-tar" }, body: named(op, hostPath, pack(hostPath, left)) });
    left.check(op);
  }

  /**
   * Copies a file or directory out of the sandbox. A file goes to hostPath, or into it where
   * that is a directory or ends in a slash; of a directory, what it holds goes below hostPath.
   * What is inside is hostile: nothing is written outside of hostPath, and links that lead
   * out of it, devices and pipes are left out, and told when everything else was copied.
   */
  async download(path: string, hostPath: string, options: FileOptions = {}): Promise<void> {
    const op = "download";
    checkValue(op, "the path of this machine", hostPath, text);
    if (await this.#isDir(path, options)) {
      const call = this.#call("archive", "GET", "/archive", path, options);
      const response = await this.#box.transport.send({ ...call, accept: "application/x-tar" });
      await unpack(op, content(call, response), hostPath);
      return;
    }
    const there = await stat(hostPath).catch(() => undefined);
    const into = hostPath.endsWith("/") || hostPath.endsWith(sep) || there?.isDirectory() === true;
    const name = posix.basename(posix.normalize(path));
    if (into && (name === ".." || name === "." || name.includes(sep))) {
      throw new InvalidError(`${op} ${path}: it has no name to be given here`, { hint: "name the file to write" });
    }
    const call = this.#call("read file", "GET", "", path, options);
    const response = await this.#box.transport.send({ ...call, accept: "*/*" });
    await saveFile(op, content(call, response), into ? join(hostPath, name) : hostPath);
  }

  async #isDir(path: string, options: FileOptions): Promise<boolean> {
    try {
      // Through a symlink as well.
      return (await this.getInfo(path.replace(/\/+$/, "") + "/.", options)).type === "directory";
    } catch (err) {
      if ((err instanceof NotFoundError && !this.#isOwn(err)) || err instanceof InvalidError || err instanceof ConflictError) {
        return false; // whatever stands in the way is found by what follows
      }
      throw err;
    }
  }

  /** Whether what was not found is the sandbox itself. */
  #isOwn(err: Error): boolean {
    return err.message.startsWith("find sandbox");
  }

  #call(op: string, method: string, route: string, path: string, options: FileOptions, query: Query = {}): Call {
    checkPath(op, path);
    checkOptions(op, options, shape);
    return this.#box.call(op, method, "/files" + route, { query: { path, user: options.user || undefined, ...query }, signal: options.signal });
  }
}

function checkPath(op: string, path: unknown): void {
  if (typeof path !== "string" || path === "") {
    throw new InvalidError(`${op}: a path is a string that is not empty`, { hint: 'the working directory is "."' });
  }
}

function modeText(mode: number | undefined): string | undefined {
  return mode === undefined ? undefined : (mode & 0o777).toString(8).padStart(4, "0");
}

/** The bytes of a reply, with errors of ours. */
async function* content(call: Call, response: IncomingMessage): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    for await (const piece of response as AsyncIterable<Uint8Array>) {
      yield plain(piece);
    }
    if (!response.complete) {
      throw new Error("it was cut off");
    }
  } catch (err) {
    call.signal?.throwIfAborted();
    throw broken(call.op, err);
  } finally {
    response.destroy();
  }
}

async function* filePieces(op: string, path: string): AsyncGenerator<Uint8Array, void, undefined> {
  yield* named(op, path, (async function* () {
    const file = await open(path, constants.O_RDONLY);
    yield* file.createReadStream({ highWaterMark: 256 << 10 }) as AsyncIterable<Uint8Array>;
  })());
}

/** Gives errors of this machine's files their names. */
async function* named(op: string, path: string, source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    yield* source;
  } catch (err) {
    throw hostError(op, path, err);
  }
}

/** Writes beside the file and renames, so that one that is cut off is not taken for it. */
async function saveFile(op: string, source: AsyncIterable<Uint8Array>, path: string): Promise<void> {
  const part = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString("hex")}`);
  try {
    await mkdir(dirname(path), { recursive: true });
    const file = await open(part, "wx", 0o644);
    try {
      for await (const piece of source) {
        await writeAll(file, piece);
      }
    } finally {
      await file.close();
    }
    await rename(part, path);
  } catch (err) {
    await rm(part, { force: true }).catch(() => undefined);
    throw hostError(op, path, err);
  }
}

/** A watch of a directory. Iterate it, or give watchDir a callback. */
export class WatchHandle implements AsyncIterable<FileEvent> {
  readonly #events: AsyncGenerator<FileEvent, void, undefined>;
  readonly #stop: AbortController;

  /** @internal */
  constructor(
    source: AsyncIterable<{ data: unknown }>, stop: AbortController,
    onEvent: ((event: FileEvent) => unknown) | undefined, onExit: ((err: Error) => unknown) | undefined,
  ) {
    this.#stop = stop;
    this.#events = this.#read(source);
    if (onEvent !== undefined) {
      this.#pump(onEvent).catch((err: unknown) => {
        this.stop();
        onExit?.(err instanceof Error ? err : new Error(String(err)));
      });
    }
  }

  /** Ends it. */
  stop(): void {
    this.#stop.abort();
  }

  [Symbol.dispose](): void {
    this.stop();
  }

  /** Yields what happens until the watch is stopped or the sandbox ends. */
  [Symbol.asyncIterator](): AsyncGenerator<FileEvent, void, undefined> {
    return this.#events;
  }

  async #pump(onEvent: (event: FileEvent) => unknown): Promise<void> {
    for await (const event of this.#events) {
      await onEvent(event);
    }
  }

  async *#read(source: AsyncIterable<{ data: unknown }>): AsyncGenerator<FileEvent, void, undefined> {
    try {
      for await (const event of source) {
        yield fromWire<FileEvent>(event.data);
      }
    } catch (err) {
      if (!this.#stop.signal.aborted) {
        throw err;
      }
    }
  }
}
