import { constants, type Stats } from "node:fs";
import { chmod, link, lstat, lutimes, mkdir, open, opendir, readlink, rmdir, symlink, unlink, utimes, type FileHandle } from "node:fs/promises";
import { join, posix, resolve, sep } from "node:path";

import type { ByteSource } from "./bytes.js";
import { broken, CoveError, errorOf, NotSupportedError, type ErrorCode } from "./errors.js";
import { header, padding, TarReader, trailer, type TarEntry } from "./tar.js";

const pieceBytes = 256 << 10;
/** The longest path that is unpacked, Linux's PATH_MAX. */
const maxName = 4096;

/** What a copy could not carry. */
export class LeftOut {
  readonly #lines: string[] = [];

  add(name: string, why: string): void {
    const shown = name.length > 200 ? name.slice(0, 200) + "…" : name;
    this.#lines.push(`${JSON.stringify(shown)} ${why}`);
  }

  /** Throws where something was left out. */
  check(op: string): void {
    const shown = this.#lines.slice(0, 10);
    if (shown.length > 0) {
      const more = this.#lines.length > shown.length ? `; and ${this.#lines.length - shown.length} more` : "";
      throw new NotSupportedError(`${op}: left out: ${shown.join("; ")}${more}`, { hint: "everything else was copied" });
    }
  }
}

/** An error of a file on this machine. */
export function hostError(op: string, at: string, err: unknown): Error {
  if (err instanceof CoveError || !(err instanceof Error) || !("code" in err)) {
    return broken(op, err);
  }
  const codes: Record<string, ErrorCode> = { ENOENT: "not_found", EACCES: "forbidden", EPERM: "forbidden", EEXIST: "conflict", ENOTDIR: "conflict", ENOSPC: "no_space" };
  return errorOf(codes[String(err.code)] ?? "internal", `${op} ${at}: ${err.message}`, { hint: "check the path on this machine", cause: err });
}

/** Yields a tar of what a directory of this machine holds, with names relative to it. */
export async function* pack(dir: string, left: LeftOut): AsyncGenerator<Uint8Array, void, undefined> {
  yield* packDir(dir, "", left);
  yield trailer;
}

async function* packDir(dir: string, below: string, left: LeftOut): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const found of await opendir(dir)) {
    const path = join(dir, found.name);
    const name = below === "" ? found.name : `${below}/${found.name}`;
    const info = await lstat(path);
    const entry: TarEntry = { name, type: "file", mode: info.mode & 0o777, size: 0, modified: info.mtime, target: "" };
    if (info.isDirectory()) {
      yield header({ ...entry, type: "directory" });
      yield* packDir(path, name, left);
    } else if (info.isSymbolicLink()) {
      yield header({ ...entry, type: "symlink", target: await readlink(path) });
    } else if (info.isFile()) {
      yield* packFile(path, entry);
    } else {
      left.add(name, "is neither file, directory nor symlink");
    }
  }
}

async function* packFile(path: string, entry: TarEntry): AsyncGenerator<Uint8Array, void, undefined> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const { size } = await file.stat();
    yield header({ ...entry, size });
    // A file that grows while it is read is copied as it was when its size was taken.
    let left = size;
    while (left > 0) {
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(Math.min(left, pieceBytes)));
      if (bytesRead === 0) {
        throw new Error(`${path} became shorter while it was read`);
      }
      left -= bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
    yield padding(size);
  } finally {
    await file.close();
  }
}

/**
 * Writes what an archive holds below a directory of this machine. What it says is hostile:
 * nothing is written outside, also not through symlinks that are there or that it brings;
 * devices, pipes and links that lead out are left out and told after the rest was copied;
 * owners and setuid bits are not kept.
 */
export async function unpack(op: string, source: ByteSource, dir: string): Promise<void> {
  const root = resolve(dir);
  const archive = new TarReader(source);
  try {
    await mkdir(root, { recursive: true });
    const unpacker = new Unpacker(op, root, archive);
    for (let entry = await archive.next(); entry !== undefined; entry = await archive.next()) {
      await unpacker.entry(entry);
    }
    await archive.drain();
    await unpacker.finish();
  } catch (err) {
    throw hostError(op, dir, err);
  } finally {
    await archive.close();
  }
}

class Unpacker {
  readonly #op: string;
  readonly #root: string;
  readonly #archive: TarReader;
  readonly #left = new LeftOut();
  /** Directories that were seen not to be symlinks. They stay so: nothing here replaces a directory. */
  readonly #real = new Set<string>(["."]);
  /** Given their modes and times last, since a directory may be read-only. */
  readonly #dirs: TarEntry[] = [];

  constructor(op: string, root: string, archive: TarReader) {
    this.#op = op;
    this.#root = root;
    this.#archive = archive;
  }

  async entry(entry: TarEntry): Promise<void> {
    const name = posix.normalize(entry.name);
    if (name === "." || name === "./") {
      return;
    }
    if (!isLocal(entry.name) || name.length > maxName) {
      this.#left.add(entry.name, "is not a name inside of the copy");
      return;
    }
    const clean = { ...entry, name };
    if (entry.type === "directory") {
      this.#dirs.push(clean);
      await this.#makeDir(name);
      return;
    }
    if (!(await this.#makeDir(posix.dirname(name)))) {
      return;
    }
    if (entry.type === "other") {
      this.#left.add(name, "is neither file, directory nor symlink");
    } else if (await this.#clear(name)) {
      await (entry.type === "symlink" ? this.#symlink(clean) : entry.type === "link" ? this.#link(clean) : this.#file(clean));
    }
  }

  /** Gives directories their modes and times, a directory after those in it, and tells what was left out. */
  async finish(): Promise<void> {
    this.#dirs.sort((a, b) => (a.name < b.name ? 1 : -1));
    for (const dir of this.#dirs) {
      if (this.#real.has(dir.name)) {
        await utimes(this.#path(dir.name), dir.modified, dir.modified);
        await chmod(this.#path(dir.name), dir.mode & 0o777);
      }
    }
    this.#left.check(this.#op);
  }

  #path(name: string): string {
    return join(this.#root, ...name.split("/"));
  }

  /** Makes a directory and its parents, none of which may be a symlink. */
  async #makeDir(name: string): Promise<boolean> {
    if (this.#real.has(name)) {
      return true;
    }
    if (!(await this.#makeDir(posix.dirname(name)))) {
      return false;
    }
    const info = await this.#lstat(name);
    if (info === undefined) {
      await mkdir(this.#path(name), 0o755);
    } else if (!info.isDirectory()) {
      this.#left.add(name, "should be a directory, but something else is there");
      return false;
    } else if ((info.mode & 0o700) !== 0o700) {
      await chmod(this.#path(name), (info.mode & 0o777) | 0o700);
    }
    this.#real.add(name);
    return true;
  }

  /** Removes what has the name, unless that is a directory. */
  async #clear(name: string): Promise<boolean> {
    const info = await this.#lstat(name);
    if (info?.isDirectory()) {
      this.#left.add(name, "can't replace the directory that is there");
      return false;
    }
    if (info !== undefined) {
      await unlink(this.#path(name));
    }
    return true;
  }

  async #file(entry: TarEntry): Promise<void> {
    const path = this.#path(entry.name);
    const file = await open(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | (constants.O_NOFOLLOW ?? 0), 0o600);
    try {
      for await (const piece of this.#archive.content()) {
        await writeAll(file, piece);
      }
      await file.chmod(entry.mode & 0o777);
      await file.utimes(entry.modified, entry.modified);
    } catch (err) {
      await unlink(path).catch(() => undefined); // half a file is not to be taken for one
      throw err;
    } finally {
      await file.close();
    }
  }

  /**
   * Makes a symlink that can't lead out: its parents are real directories and its target
   * goes up only at its beginning, so that what the target says is where it leads.
   */
  async #symlink(entry: TarEntry): Promise<void> {
    const { name, target } = entry;
    const clean = target !== "" && posix.normalize(target) === target && !target.endsWith("/");
    if (!clean || posix.isAbsolute(target) || hasBadByte(target) || !isLocal(posix.join(posix.dirname(name), target))) {
      this.#left.add(name, `is a link that leads out, to ${target.slice(0, 200)}`);
      return;
    }
    await symlink(target, this.#path(name));
    await lutimes(this.#path(name), entry.modified, entry.modified);
  }

  async #link(entry: TarEntry): Promise<void> {
    const target = posix.normalize(entry.target);
    if (!isLocal(entry.target) || !this.#real.has(posix.dirname(target))) {
      this.#left.add(entry.name, `is a link that leads out, to ${target.slice(0, 200)}`);
      return;
    }
    const info = await this.#lstat(target);
    if (!info?.isFile()) {
      this.#left.add(entry.name, "is a link to something that is not a file");
      return;
    }
    await link(this.#path(target), this.#path(entry.name));
  }

  async #lstat(name: string): Promise<Stats | undefined> {
    try {
      return await lstat(this.#path(name));
    } catch (err) {
      if ((err as NodeJS.ErrnoException).code === "ENOENT") {
        return undefined;
      }
      throw err;
    }
  }
}

/** Removes a file, or a directory that is empty, below a root; nothing is followed on the way, and what is not there is fine. */
export async function removeBelow(root: string, name: string): Promise<void> {
  const clean = posix.normalize(name);
  if (clean === "." || !isLocal(name)) {
    return;
  }
  let path = resolve(root);
  for (const part of posix.dirname(clean).split("/")) {
    path = join(path, part);
    if (!(await lstat(path).catch(() => undefined))?.isDirectory()) {
      return;
    }
  }
  path = join(path, posix.basename(clean));
  const info = await lstat(path).catch(() => undefined);
  if (info?.isDirectory()) {
    await rmdir(path).catch((err: NodeJS.ErrnoException) => {
      if (err.code !== "ENOTEMPTY" && err.code !== "EEXIST") {
        throw err; // what else is in it stays, and so does it
      }
    });
  } else if (info !== undefined) {
    await unlink(path);
  }
}

const hasBadByte = (name: string): boolean => name.includes("\0") || (sep === "\\" && /[\\:]/.test(name));

/** Whether a name, as it is written, stays below where it begins. */
function isLocal(name: string): boolean {
  if (name === "" || posix.isAbsolute(name) || hasBadByte(name)) {
    return false;
  }
  const clean = posix.normalize(name);
  return clean !== ".." && !clean.startsWith("../");
}

/** Writes all of a piece, also where the system takes a part of it. */
export async function writeAll(file: FileHandle, piece: Uint8Array): Promise<void> {
  for (let done = 0; done < piece.length;) {
    done += (await file.write(piece, done)).bytesWritten;
  }
}
