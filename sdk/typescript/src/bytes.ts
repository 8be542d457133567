/** What bytes are read from: a reply, a socket, a file. */
export type ByteSource = AsyncIterable<Uint8Array>;

/** Reads a source in pieces of known lengths. */
export class ByteReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #pending: Uint8Array[] = [];
  #size = 0;
  #ended = false;

  constructor(source: ByteSource) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Returns exactly n bytes, or undefined where the source ends before the first of them. */
  async exactly(n: number): Promise<Uint8Array | undefined> {
    while (this.#size < n && (await this.#more()));
    if (this.#size >= n) {
      return this.#take(n);
    }
    if (this.#size === 0) {
      return undefined;
    }
    throw new Error("it ends in the middle");
  }

  /** Returns what is there, at least one byte and at most n, or undefined at the end. */
  async some(n: number): Promise<Uint8Array | undefined> {
    while (this.#size === 0 && (await this.#more()));
    if (this.#size === 0) {
      return undefined;
    }
    return this.#take(Math.min(n, this.#pending[0]?.length ?? 0));
  }

  /** Stops reading. */
  async close(): Promise<void> {
    this.#ended = true;
    await this.#source.return?.();
  }

  async #more(): Promise<boolean> {
    if (this.#ended) {
      return false;
    }
    const next = await this.#source.next();
    if (next.done) {
      this.#ended = true;
      return false;
    }
    if (next.value.length > 0) {
      this.#pending.push(next.value);
      this.#size += next.value.length;
    }
    return true;
  }

  #take(n: number): Uint8Array {
    this.#size -= n;
    const first = this.#pending[0];
    if (n === 0 || first === undefined) {
      return new Uint8Array(0);
    }
    if (first.length === n) {
      this.#pending.shift();
      return first;
    }
    if (first.length > n) {
      this.#pending[0] = first.subarray(n);
      return first.subarray(0, n);
    }
    // One copy, however many pieces there are.
    const all = this.#pending.length === 1 ? first : Buffer.concat(this.#pending);
    this.#pending = all.length > n ? [all.subarray(n)] : [];
    return all.subarray(0, n);
  }
}

/** Returns a view without Buffer's prototype, whose slice and toString differ from Uint8Array's. */
export function plain(data: Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Reads a source to its end, up to a bound. */
export async function readAll(source: ByteSource, most: number): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of source) {
    size += piece.length;
    if (size > most) {
      throw new Error(`it is longer than ${most} bytes`);
    }
    pieces.push(piece);
  }
  return plain(Buffer.concat(pieces));
}
