import type { Box } from "./box.js";
import { checkOptions, count, list, object, text, texts } from "./check.js";
import { follow } from "./follow.js";
import type { CallOptions, NetworkEvent, NetworkStatus, NetworkUpdate } from "./types.js";
import { fromWire, toWire } from "./wire.js";

/** What a sandbox may reach. */
export class SandboxNetwork {
  readonly #box: Box;

  /** @internal */
  constructor(box: Box) {
    this.#box = box;
  }

  /** The policy that holds, and what has passed. */
  async get(options: CallOptions = {}): Promise<NetworkStatus> {
    return fromWire(await this.#box.json(this.#box.call("network", "GET", "/network", options)));
  }

  /** Changes it: what is absent stays, a list takes the place of the one before. It holds when this returns. */
  async set(update: NetworkUpdate, options: CallOptions = {}): Promise<NetworkStatus> {
    checkOptions("set network", update, { mode: text, allow: texts, deny: texts, requests: list, secrets: list, limits: object }, "the update");
    return fromWire(await this.#box.json(this.#box.call("set network", "PATCH", "/network", { json: toWire(update), signal: options.signal })));
  }

  /** Decisions that are kept, after the one with that number. `lost`: some after it are not kept. */
  async log(options: CallOptions & { after?: number } = {}): Promise<{ events: NetworkEvent[]; lost: boolean }> {
    checkOptions("network log", options, { after: count });
    const call = this.#box.call("network log", "GET", "/network/log", { query: { after: options.after }, signal: options.signal });
    const reply = fromWire<{ events: NetworkEvent[] | null; lost?: boolean }>(await this.#box.json(call));
    return { events: reply.events ?? [], lost: reply.lost ?? false };
  }

  /** Yields decisions, those that are kept and those that come, until the sandbox ends, which is an error. */
  follow(options: CallOptions & { after?: number } = {}): AsyncGenerator<NetworkEvent, void, undefined> {
    checkOptions("network log", options, { after: count });
    const call = this.#box.call("network log", "GET", "/network/log", { query: { after: options.after }, signal: options.signal });
    return follow<NetworkEvent>(this.#box.transport, call, false);
  }
}
