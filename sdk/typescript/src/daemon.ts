import { execFile } from "node:child_process";
import { statSync } from "node:fs";
import { lstat } from "node:fs/promises";
import { connect } from "node:net";
import { delimiter, isAbsolute, join, resolve } from "node:path";

import { ForbiddenError, InvalidError, UnavailableError } from "./errors.js";

/** Where a daemon is. */
export interface Address {
  /** Path of its unix socket, or undefined. */
  socket?: string;
  /** http: or https: address without a slash at the end; of a socket, one that is never resolved. */
  base: URL;
  /** Whether the socket is this user's own, whose daemon may be started. */
  own: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

const startTimeoutMs = 60_000;

/** Reads an address, or finds this user's daemon as the cove program does. */
export function locate(url: string | undefined, env: Environment = process.env): Address {
  const text = url ?? (env["COVE_URL"] || undefined);
  if (text === undefined) {
    return { socket: join(stateDir(env), "cove.sock"), base: new URL("http://cove"), own: true };
  }
  if (text.startsWith("unix://")) {
    const path = text.slice("unix://".length);
    if (!isAbsolute(path)) {
      throw badURL(text);
    }
    return { socket: path, base: new URL("http://cove"), own: false };
  }
  let base: URL;
  try {
    base = new URL(text);
  } catch {
    throw badURL(text);
  }
  if ((base.protocol !== "http:" && base.protocol !== "https:") || base.username !== "" || base.search !== "") {
    throw badURL(text);
  }
  base.pathname = base.pathname.replace(/\/+$/, "");
  return { base, own: false };
}

function badURL(text: string): InvalidError {
  return new InvalidError(`connect ${JSON.stringify(text)}: it is neither a unix socket nor a web address`, {
    hint: "use unix:///path/of/socket, http://host:port or https://host:port",
  });
}

function stateDir(env: Environment): string {
  const set = env["COVE_STATE_DIR"];
  if (set) {
    return resolve(set);
  }
  if (process.geteuid?.() === 0) {
    return "/run/cove";
  }
  const runtime = env["XDG_RUNTIME_DIR"];
  if (runtime && isAbsolute(runtime)) {
    return join(runtime, "cove");
  }
  const dataHome = env["XDG_DATA_HOME"];
  const data =
    env["COVE_DATA_DIR"] ||
    (dataHome && isAbsolute(dataHome) ? join(dataHome, "cove") : join(env["HOME"] ?? "", ".local", "share", "cove"));
  return resolve(data, "run");
}

/** Refuses a directory in which somebody else could have left a socket. One that is not there is fine. */
export async function trust(dir: string): Promise<void> {
  const info = await lstat(dir).catch((err: NodeJS.ErrnoException) => {
    if (err.code === "ENOENT") {
      return undefined;
    }
    throw err;
  });
  if (info === undefined) {
    return;
  }
  let why = "";
  if (!info.isDirectory()) {
    why = "it is not a directory";
  } else if (info.uid !== process.geteuid?.()) {
    why = `it belongs to uid ${info.uid}`;
  } else if ((info.mode & 0o022) !== 0) {
    why = "others may write to it";
  }
  if (why !== "") {
    throw new ForbiddenError(`use directory ${dir}: ${why}`, { hint: "give Cove a directory of your own with COVE_STATE_DIR" });
  }
}

/** Reports whether somebody listens on a socket. */
export function answers(socket: string): Promise<boolean> {
  return new Promise((done) => {
    const probe = connect(socket);
    probe.once("connect", () => {
      probe.destroy();
      done(true);
    });
    probe.once("error", () => done(false));
  });
}

/** Starts this user's daemon, which outlives this process; `cove ls` does so and returns when it serves. */
export async function start(bin: string | undefined, env: Environment = process.env): Promise<void> {
  const program = findProgram(bin, env);
  const child = { ...env };
  delete child["COVE_URL"];
  await new Promise<void>((done, fail) => {
    execFile(program, ["ls"], { env: child, timeout: startTimeoutMs, maxBuffer: 1 << 20 }, (err, _stdout, stderr) => {
      if (err === null) {
        done();
        return;
      }
      const said = stderr.trim();
      fail(new UnavailableError(`start the daemon: ${said === "" ? err.message : said}`, {
        hint: "start it yourself with cove serve, or set COVE_URL",
        cause: err,
      }));
    });
  });
}

/** The program `cove`. */
export function findProgram(bin: string | undefined, env: Environment): string {
  const named = bin ?? (env["COVE_BIN"] || undefined);
  const candidates = named === undefined
    ? (env["PATH"] ?? "").split(delimiter).filter(isAbsolute).map((dir) => join(dir, "cove"))
    : [resolve(named), join(resolve(named), "cove")]; // the program, or the directory that has it
  for (const candidate of candidates) {
    const info = statSync(candidate, { throwIfNoEntry: false });
    if (info?.isFile() && (info.mode & 0o111) !== 0) {
      return candidate;
    }
  }
  throw new UnavailableError("start the daemon: the program cove was not found" + (named === undefined ? " in PATH" : ` at ${named}`), {
    hint: "install it, set COVE_BIN to where it is, or set COVE_URL to a daemon elsewhere",
  });
}
