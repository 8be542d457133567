import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

import type { Box } from "./box.js";
import { GoneError, NotFoundError } from "./errors.js";

/** How long a sandbox outlives a program that was killed, or whose event loop is blocked. */
export const leaseMs = 60_000;
/** Leaves two attempts before a lease is over. */
const renewMs = 20_000;
/** How long a program that is told to end waits for its sandboxes to be removed. */
const farewellMs = 5_000;
const signals = ["SIGINT", "SIGTERM"] as const;

/** Keeps a sandbox for as long as this program lives, or up to a limit. */
export class Lease {
  readonly #box: Box;
  #end: number;
  readonly #timer: NodeJS.Timeout;

  /** @param end when it is over at the latest, in ms since the epoch */
  constructor(box: Box, end: number) {
    this.#box = box;
    this.#end = end;
    this.#timer = setInterval(() => void this.#renew().catch(() => undefined), renewMs);
    this.#timer.unref(); // a lease is no reason to stay
    leased.add(this);
    watchExit();
  }

  /** Moves the limit. */
  async until(end: number, signal?: AbortSignal): Promise<void> {
    this.#end = end;
    await this.#renew(signal);
  }

  /** Ends it. What is left of its time is the sandbox's. */
  release(): void {
    clearInterval(this.#timer);
    leased.delete(this);
    if (leased.size === 0) {
      unwatchExit();
    }
  }

  /** Milliseconds until the limit. */
  get remaining(): number {
    return Math.max(this.#end - Date.now(), 1);
  }

  get box(): Box {
    return this.#box;
  }

  async remove(signal?: AbortSignal): Promise<void> {
    // Released last: an exit in the meantime has the reaper do it.
    await this.#box.remove(signal).finally(() => this.release());
  }

  async #renew(signal: AbortSignal = AbortSignal.timeout(renewMs / 2)): Promise<void> {
    const ttl = Math.min(this.remaining, leaseMs);
    try {
      await this.#box.json(this.#box.call("renew", "PATCH", "", { json: { ttl: `${Math.ceil(ttl)}ms` }, signal }));
    } catch (err) {
      if (err instanceof NotFoundError || err instanceof GoneError) {
        this.release();
      }
      throw err; // another one is not the end: the daemon may be coming back
    }
  }
}

// The process is one, and so are its exit and what is to be removed then.
const leased = new Set<Lease>();
let watching = false;
let leaving = false;

function watchExit(): void {
  if (watching) {
    return;
  }
  watching = true;
  process.on("beforeExit", removeAll);
  process.on("exit", onExit);
  for (const signal of signals) {
    process.on(signal, onSignal);
  }
}

function unwatchExit(): void {
  watching = false;
  process.off("beforeExit", removeAll);
  process.off("exit", onExit);
  if (!leaving) {
    for (const signal of signals) {
      process.off(signal, onSignal);
    }
  }
}

async function removeAll(): Promise<void> {
  const signal = AbortSignal.timeout(farewellMs);
  await Promise.allSettled([...leased].map((lease) => lease.remove(signal)));
}

/** Removes what is there and ends as the signal would have. A program that handles it itself decides alone. */
function onSignal(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) > 1 && !leaving) {
    return;
  }
  const die = (): void => {
    for (const name of signals) {
      process.off(name, onSignal);
    }
    process.kill(process.pid, signal);
  };
  if (leaving) {
    die(); // asked twice
    return;
  }
  leaving = true;
  // Whatever the program makes of its sandboxes' end, it is the signal that ended it.
  process.once("exit", die);
  void removeAll().finally(die);
}

/** After process.exit, and an exception that nobody caught, nothing asynchronous runs here any more: another process does it. */
function onExit(): void {
  const boxes = [...leased].map((lease) => lease.box);
  for (const transport of new Set(boxes.map((box) => box.transport))) {
    const { address, key } = transport;
    const work = {
      url: address.socket === undefined ? address.base.href : `unix://${address.socket}`,
      key,
      ids: boxes.filter((box) => box.transport === transport).map((box) => box.id),
    };
    const env: NodeJS.ProcessEnv = { ...process.env, COVE_REAP: JSON.stringify(work) };
    delete env["NODE_OPTIONS"]; // of the program, as with --inspect
    try {
      spawn(process.execPath, [fileURLToPath(new URL("./reaper.js", import.meta.url))], { detached: true, stdio: "ignore", env }).unref();
    } catch {
      return; // the lease ends by itself
    }
  }
}
