import { ByteReader, type ByteSource } from "./bytes.js";

/** What an archive is made of: POSIX ustar with pax records where a value does not fit. */
export interface TarEntry {
  /** With slashes; a directory's ends in none. */
  name: string;
  type: "file" | "directory" | "symlink" | "link" | "other";
  /** Permission bits. */
  mode: number;
  /** Of a file, in bytes. */
  size: number;
  modified: Date;
  /** Where a symlink or link points. */
  target: string;
}

const block = 512;
/** Bounds a pax record and a long name, which are kept in memory. */
const maxExtra = 1 << 20;

const types: Readonly<Record<string, TarEntry["type"]>> = {
  "0": "file", "\0": "file", "7": "file", "1": "link", "2": "symlink", "5": "directory",
};
const flags = { file: "0", link: "1", symlink: "2", directory: "5" } as const;

/** Returns the header blocks of an entry. Its content follows, and {@link padding}. */
export function header(entry: TarEntry): Uint8Array {
  const name = entry.type === "directory" ? entry.name + "/" : entry.name;
  const seconds = Math.floor(entry.modified.getTime() / 1000);
  const pax: [string, string][] = [];
  const place = fitName(name);
  if (place === undefined) {
    pax.push(["path", name]);
  }
  if (!fits(entry.target, 100)) {
    pax.push(["linkpath", entry.target]);
  }
  if (entry.size >= 8 ** 11) {
    pax.push(["size", String(entry.size)]);
  }
  const whole = seconds >= 0 && seconds < 8 ** 11;
  if (!whole) {
    pax.push(["mtime", String(seconds)]);
  }
  const main = headerBlock({
    name: place?.name ?? cut(name), prefix: place?.prefix ?? "", flag: flags[entry.type as keyof typeof flags],
    mode: entry.mode & 0o7777, size: entry.size < 8 ** 11 ? entry.size : 0, seconds: whole ? seconds : 0,
    target: fits(entry.target, 100) ? entry.target : cut(entry.target),
  });
  if (pax.length === 0) {
    return main;
  }
  const records = Buffer.concat(pax.map(([key, value]) => record(key, value)));
  const extra = headerBlock({ name: "PaxHeaders/" + (place?.name ?? "long"), prefix: "", flag: "x", mode: 0o644, size: records.length, seconds: 0, target: "" });
  return Buffer.concat([extra, records, padding(records.length), main]);
}

/** What fills the last block of a content. */
export function padding(size: number): Uint8Array {
  return Buffer.alloc((block - (size % block)) % block);
}

/** The end of an archive. */
export const trailer: Uint8Array = new Uint8Array(2 * block);

const isASCII = (text: string): boolean => /^[\x01-\x7f]*$/.test(text);
const fits = (text: string, most: number): boolean => isASCII(text) && text.length <= most;
const cut = (text: string): string => text.replace(/[^\x20-\x7e]/g, "_").slice(0, 100);

function fitName(name: string): { name: string; prefix: string } | undefined {
  if (fits(name, 100)) {
    return { name, prefix: "" };
  }
  if (!isASCII(name)) {
    return undefined;
  }
  const slash = name.indexOf("/", Math.max(name.length - 101, 1));
  const rest = name.slice(slash + 1);
  return slash > 0 && slash <= 155 && rest !== "" ? { name: rest, prefix: name.slice(0, slash) } : undefined;
}

function headerBlock(h: { name: string; prefix: string; flag: string; mode: number; size: number; seconds: number; target: string }): Buffer {
  const out = Buffer.alloc(block);
  const octal = (value: number, at: number, width: number): void => {
    out.write(value.toString(8).padStart(width - 1, "0"), at, "latin1");
  };
  out.write(h.name, 0, "latin1");
  octal(h.mode, 100, 8);
  octal(0, 108, 8); // who owns it here means nothing inside
  octal(0, 116, 8);
  octal(h.size, 124, 12);
  octal(h.seconds, 136, 12);
  out.write(h.flag, 156, "latin1");
  out.write(h.target, 157, "latin1");
  out.write("ustar\x0000", 257, "latin1");
  out.write(h.prefix, 345, "latin1");
  out.write(checksum(out).toString(8).padStart(6, "0") + "\0 ", 148, "latin1");
  return out;
}

/** The sum of a header's bytes, its own field taken as spaces. */
function checksum(header: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < block; i++) {
    sum += i >= 148 && i < 156 ? 32 : header[i] ?? 0;
  }
  return sum;
}

/** A pax record begins with its own length, the digits included. */
function record(key: string, value: string): Buffer {
  const body = Buffer.from(` ${key}=${value}\n`);
  let length = body.length + 1;
  while (String(length).length + body.length !== length) {
    length = String(length).length + body.length;
  }
  return Buffer.concat([Buffer.from(String(length)), body]);
}

/** Reads the entries of an archive. What is left of a content is skipped by the next entry. */
export class TarReader {
  readonly #source: ByteReader;
  #left = 0; // of the content, with its padding
  #content = 0; // of the content alone

  constructor(source: ByteSource) {
    this.#source = new ByteReader(source);
  }

  /** Returns the next entry, or undefined at the end of the archive. An archive that is cut off is an error. */
  async next(): Promise<TarEntry | undefined> {
    let extra: Record<string, string> = {};
    for (;;) {
      await this.#skip();
      const head = await this.#block();
      if (head.every((byte) => byte === 0)) {
        return undefined;
      }
      if (checksum(head) !== octal(head, 148, 8)) {
        throw new Error("a header of the archive is broken");
      }
      const flag = String.fromCharCode(head[156] ?? 0);
      const size = number(head, 124, 12);
      if (flag === "x" || flag === "g" || flag === "L" || flag === "K") {
        const data = await this.#extra(size);
        if (flag === "x") {
          extra = { ...extra, ...records(data) };
        } else if (flag !== "g") { // global records say nothing about a file that matters here
          extra[flag === "L" ? "path" : "linkpath"] = text(data, 0, data.length);
        }
        continue;
      }
      return this.#entry(head, flag, size, extra);
    }
  }

  /** Yields the content of the entry that next returned last. */
  async *content(): AsyncGenerator<Uint8Array, void, undefined> {
    while (this.#content > 0) {
      const piece = await this.#some(this.#content);
      this.#content -= piece.length;
      yield piece;
    }
  }

  /** Reads on to the end of the source, where it says whether it is whole. */
  async drain(): Promise<void> {
    while ((await this.#source.some(1 << 20)) !== undefined);
  }

  async close(): Promise<void> {
    await this.#source.close();
  }

  #entry(head: Uint8Array, flag: string, fieldSize: number, extra: Record<string, string>): TarEntry {
    const ustar = text(head, 257, 5) === "ustar";
    const prefix = ustar && text(head, 257, 8) !== "ustar  " ? text(head, 345, 155) : "";
    const name = extra["path"] ?? (prefix === "" ? "" : prefix + "/") + text(head, 0, 100);
    // A sparse file's content is not what it says.
    const sparse = Object.keys(extra).some((key) => key.startsWith("GNU.sparse"));
    const size = extra["size"] === undefined ? fieldSize : Number(extra["size"]);
    if (!Number.isSafeInteger(size) || size < 0) {
      throw new Error("a size in the archive is broken");
    }
    const directory = types[flag] === "file" && name.endsWith("/");
    const type = sparse ? "other" : directory ? "directory" : types[flag] ?? "other";
    const kept = type === "file" || type === "other" ? size : 0;
    this.#content = kept;
    this.#left = kept + padding(kept).length;
    const seconds = Number(extra["mtime"] ?? number(head, 136, 12));
    return {
      name: name.replace(/\/+$/, ""), type, mode: octal(head, 100, 8) & 0o7777, size: kept,
      modified: new Date(Number.isFinite(seconds) ? Math.max(-8.64e12, Math.min(seconds, 8.64e12)) * 1000 : 0),
      target: extra["linkpath"] ?? text(head, 157, 100),
    };
  }

  async #extra(size: number): Promise<Uint8Array> {
    if (size > maxExtra) {
      throw new Error(`a header of ${size} bytes is too long`);
    }
    const data = await this.#source.exactly(size + padding(size).length);
    if (data === undefined && size > 0) {
      throw new Error("the archive ends in the middle");
    }
    return (data ?? new Uint8Array(0)).subarray(0, size);
  }

  async #skip(): Promise<void> {
    while (this.#left > 0) {
      await this.#some(this.#left);
    }
    this.#content = 0;
  }

  async #some(most: number): Promise<Uint8Array> {
    const piece = await this.#source.some(most);
    if (piece === undefined) {
      throw new Error("the archive ends in the middle");
    }
    this.#left -= piece.length;
    return piece;
  }

  async #block(): Promise<Uint8Array> {
    const data = await this.#source.exactly(block);
    if (data === undefined) {
      throw new Error("the archive ends without its end");
    }
    return data;
  }
}

function text(data: Uint8Array, at: number, most: number): string {
  const field = data.subarray(at, at + most);
  const end = field.indexOf(0);
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(end < 0 ? field : field.subarray(0, end));
}

function octal(data: Uint8Array, at: number, most: number): number {
  const digits = text(data, at, most).trim();
  if (!/^[0-7]*$/.test(digits)) {
    throw new Error("a number in the archive is broken");
  }
  return digits === "" ? 0 : Number.parseInt(digits, 8);
}

/** A number in octal, or as GNU has those that do not fit: in binary, with the first bit set. */
function number(data: Uint8Array, at: number, most: number): number {
  if (((data[at] ?? 0) & 0x80) === 0) {
    return octal(data, at, most);
  }
  let value = (data[at] ?? 0) & 0x3f;
  for (let i = at + 1; i < at + most; i++) {
    value = value * 256 + (data[i] ?? 0);
  }
  if ((data[at] ?? 0) & 0x40 || !Number.isSafeInteger(value)) {
    throw new Error("a number in the archive is broken");
  }
  return value;
}

function records(data: Uint8Array): Record<string, string> {
  const out: Record<string, string> = Object.create(null) as Record<string, string>;
  for (let at = 0; at < data.length;) {
    const space = data.indexOf(32, at);
    const length = space < 0 ? NaN : Number(text(data, at, space - at));
    const line = data.subarray(space + 1, at + length);
    const equals = line.indexOf(61);
    if (!Number.isInteger(length) || at + length > data.length || line.at(-1) !== 10 || equals < 1) {
      throw new Error("a pax record of the archive is broken");
    }
    const value = line.subarray(equals + 1, -1);
    if (value.includes(0)) {
      throw new Error("a pax record of the archive has a zero byte");
    }
    out[new TextDecoder().decode(line.subarray(0, equals))] = new TextDecoder("utf-8", { ignoreBOM: true }).decode(value);
    at += length;
  }
  return out;
}
