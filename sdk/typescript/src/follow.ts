import { broken } from "./errors.js";
import { subscribe } from "./stream.js";
import type { Call, Transport } from "./transport.js";
import { fromWire } from "./wire.js";

/** Yields the data of a stream of events. Only a finite one may end without an error. */
export async function* follow<T>(transport: Transport, call: Call, finite: boolean): AsyncGenerator<T, void, undefined> {
  for await (const event of await subscribe(transport, call)) {
    yield fromWire<T>(event.data);
  }
  call.signal?.throwIfAborted();
  if (!finite) {
    throw broken(call.op, new Error("the stream ended"));
  }
}
