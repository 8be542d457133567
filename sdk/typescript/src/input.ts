import type { Blob } from "node:buffer";
import type { ReadableStream } from "node:stream/web";

import { InvalidError } from "./errors.js";

/** What can be sent: text (as UTF-8), bytes, or a stream of those. */
export type Input =
  | string
  | Uint8Array
  | ArrayBuffer
  | Blob
  | ReadableStream<string | Uint8Array>
  | AsyncIterable<string | Uint8Array>;

/** Turns an input into bytes, or a stream of bytes. */
export function toBody(op: string, input: unknown): Uint8Array | AsyncIterable<Uint8Array> {
  if (typeof input === "string") {
    return Buffer.from(input);
  }
  if (input instanceof Uint8Array) {
    return input;
  }
  if (input instanceof ArrayBuffer) {
    return new Uint8Array(input);
  }
  if (typeof input === "object" && input !== null) {
    if ("stream" in input && typeof input.stream === "function" && "size" in input) {
      return pieces(op, (input as Blob).stream());
    }
    if (Symbol.asyncIterator in input) {
      return pieces(op, input as AsyncIterable<unknown>);
    }
  }
  throw new InvalidError(`${op}: ${input === null ? "null" : typeof input} is not something to send`, {
    hint: "pass a string, a Uint8Array, an ArrayBuffer, a Blob, or a stream of strings or bytes",
  });
}

async function* pieces(op: string, source: AsyncIterable<unknown>): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const piece of source) {
    if (typeof piece === "string") {
      yield Buffer.from(piece);
    } else if (piece instanceof Uint8Array) {
      yield piece;
    } else {
      throw new InvalidError(`${op}: the stream yields ${typeof piece}, not strings or bytes`, {
        hint: "map it to strings or Uint8Arrays",
      });
    }
  }
}
