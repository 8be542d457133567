import { GoneError, InvalidError, NotFoundError } from "./errors.js";
import type { Call, Transport } from "./transport.js";

/** Escapes a name as a path segment. `.` and `..` would be lost on the way; nothing is called so. */
export function segment(name: string): string {
  return name === "" || name === "." || name === ".." ? "-" : encodeURIComponent(name);
}

/** One sandbox as its parts (commands, files, …) see it: an address of calls, until it is killed. */
export class Box {
  killed = false;

  constructor(readonly transport: Transport, readonly id: string) {
    if (typeof id !== "string" || id === "") {
      throw new InvalidError("find sandbox: an id or name is a string that is not empty", { hint: "see Sandbox.list() for those that there are" });
    }
  }

  /** Begins a call below the sandbox; path is escaped already. */
  call(op: string, method: string, path: string, rest: Omit<Call, "op" | "method" | "path"> = {}): Call {
    if (this.killed) {
      throw new GoneError(`${op}: the sandbox ${this.id} was killed`, { hint: "create another one" });
    }
    return { op, method, path: `/v1/sandboxes/${segment(this.id)}${path}`, ...rest };
  }

  /** Destroys it. Returns whether the daemon knows it; one that is gone is fine. */
  async remove(signal: AbortSignal | undefined): Promise<boolean> {
    try {
      await this.json(this.call("remove", "DELETE", "", { signal }));
      return true;
    } catch (err) {
      if (err instanceof NotFoundError) {
        return false;
      }
      throw err;
    }
  }

  json(call: Call): Promise<unknown> {
    return this.transport.json(call);
  }
}
