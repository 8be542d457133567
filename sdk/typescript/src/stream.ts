import type { IncomingMessage } from "node:http";

import { ByteReader } from "./bytes.js";
import { broken, CoveError, errorOfBody } from "./errors.js";
import type { Call, Transport } from "./transport.js";
import { fromWire } from "./wire.js";

/** The daemon sends something at least every 15 s. A connection that is silent for longer is dead. */
const silenceMs = 45_000;
const maxFrame = 16 << 20;
const maxEvent = 1 << 20;

/** How a process ended. */
export interface Exit {
  /** -1 when a signal ended it. */
  code: number;
  /** As in SIGKILL. */
  signal?: string;
  timedOut: boolean;
  error?: string;
  durationMs: number;
}

export type StreamName = "stdout" | "stderr" | "pty";

/** One piece of what a process does: its start, bytes, or its end. */
export type Frame =
  | { kind: "start"; pid: number }
  | { kind: "data"; stream: StreamName; offset: number; data: Uint8Array }
  | { kind: "exit"; exit: Exit };

const streams: Readonly<Record<number, StreamName>> = { 1: "stdout", 2: "stderr", 3: "pty" };

/**
 * Yields the frames of a reply: 1 byte kind, 8 bytes offset, 4 bytes length, payload. A
 * stream that ends before the exit is an error, unless it is one that may.
 */
export async function* frames(transport: Transport, call: Call, mayEnd = false): AsyncGenerator<Frame, void, undefined> {
  const response = await transport.send({ ...call, accept: "application/vnd.cove.stream" });
  const reader = new ByteReader(guarded(response));
  try {
    for (;;) {
      const header = await reader.exactly(13);
      if (header === undefined) {
        if (mayEnd) {
          return;
        }
        throw new Error("it ended before the command did");
      }
      const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
      const length = view.getUint32(9);
      if (length > maxFrame) {
        throw new Error(`a frame of ${length} bytes is too long`);
      }
      const offset = Number(view.getBigUint64(1));
      const payload = await reader.exactly(length);
      if (payload === undefined) {
        throw new Error("it ended in the middle of a frame");
      }
      const frame = decodeFrame(call.op, view.getUint8(0), offset, payload);
      if (frame !== undefined) {
        yield frame;
        if (frame.kind === "exit") {
          return;
        }
      }
    }
  } catch (err) {
    call.signal?.throwIfAborted();
    throw broken(call.op, err);
  } finally {
    response.destroy();
  }
}

function decodeFrame(op: string, kind: number, offset: number, payload: Uint8Array): Frame | undefined {
  const stream = streams[kind];
  if (stream !== undefined) {
    return { kind: "data", stream, offset, data: new Uint8Array(payload) };
  }
  if (kind < 16 || kind > 18) {
    return undefined; // nothing, or of a newer daemon
  }
  const value: unknown = JSON.parse(new TextDecoder().decode(payload));
  if (kind === 18) {
    throw errorOfBody(value, op);
  }
  const output = fromWire<{ pid?: number; exit?: Exit }>(value);
  return kind === 17 && output.exit !== undefined
    ? { kind: "exit", exit: output.exit }
    : { kind: "start", pid: output.pid ?? 0 };
}

/** A server-sent event. */
export interface ServerEvent {
  name: string;
  data: unknown;
}

/** Sends a call whose reply is server-sent events, and returns once the stream is open. */
export async function subscribe(transport: Transport, call: Call): Promise<AsyncGenerator<ServerEvent, void, undefined>> {
  const response = await transport.send({ ...call, accept: "text/event-stream" });
  return events(response, call);
}

async function* events(response: IncomingMessage, call: Call): AsyncGenerator<ServerEvent, void, undefined> {
  let name = "";
  let data = "";
  try {
    for await (const line of lines(guarded(response))) {
      const colon = line.indexOf(":");
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (line === "" && data !== "") {
        const decoded: unknown = JSON.parse(data);
        if (name === "error") {
          throw errorOfBody(decoded, call.op);
        }
        yield { name, data: decoded };
        name = data = "";
      } else if (field === "event") {
        name = value;
      } else if (field === "data") {
        data += value;
        if (data.length > maxEvent) {
          throw new Error("an event is too long");
        }
      }
    }
  } catch (err) {
    call.signal?.throwIfAborted();
    throw broken(call.op, err);
  } finally {
    response.destroy();
  }
}

async function* lines(source: AsyncIterable<Uint8Array>): AsyncGenerator<string, void, undefined> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const piece of source) {
    const parts = (rest + decoder.decode(piece, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    if (rest.length > maxEvent) {
      throw new Error("a line is too long");
    }
    for (const line of parts) {
      yield line.endsWith("\r") ? line.slice(0, -1) : line;
    }
  }
}

/** Ends a reply that has become silent, and one that was cut off, with an error. */
async function* guarded(response: IncomingMessage): AsyncGenerator<Uint8Array, void, undefined> {
  const silent = (): void => {
    response.destroy(new CoveError("unavailable", `nothing arrived for ${silenceMs / 1000} s`));
  };
  let timer: NodeJS.Timeout | undefined;
  const source = (response as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]();
  try {
    for (;;) {
      // Only while something is waited for: who reads slowly is not a dead connection.
      timer = setTimeout(silent, silenceMs);
      const next = await source.next();
      clearTimeout(timer);
      if (next.done) {
        return;
      }
      yield next.value;
    }
  } finally {
    clearTimeout(timer);
    response.destroy();
  }
}
