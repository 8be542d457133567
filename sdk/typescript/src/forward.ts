import { createServer, type AddressInfo, type Server } from "node:net";
import type { Duplex } from "node:stream";

import type { Box } from "./box.js";
import { InvalidError } from "./errors.js";
import type { CallOptions } from "./types.js";

/** A port of this machine that leads to one inside. */
export interface Forward {
  /** On 127.0.0.1. */
  readonly port: number;
  /** As in http://127.0.0.1:40123 */
  readonly url: string;
  /** Closes the port and its connections. */
  close(): Promise<void>;
}

/** Opens a TCP connection to a port on the loopback inside. */
export async function connectPort(box: Box, port: number, options: CallOptions = {}): Promise<Duplex> {
  const call = box.call("dial port", "GET", `/ports/${checkPort(port)}`, { signal: options.signal });
  return (await box.transport.upgrade(call, "cove-tcp")).socket;
}

/** Opens a port of this machine. It does not keep the program from ending. */
export async function forward(box: Box, port: number, localPort = 0): Promise<Forward> {
  checkPort(port);
  const open = new Set<Duplex>();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (local) => {
    hold(open, local);
    connectPort(box, port).then((remote) => {
      hold(open, remote);
      local.pipe(remote);
      remote.pipe(local);
      local.once("close", () => remote.destroy());
      remote.once("close", () => local.end());
    }, () => local.destroy()); // nothing listens inside: as a closed port, nearly
  });
  await new Promise<void>((done, fail) => {
    server.once("error", fail);
    server.listen(localPort, "127.0.0.1", done);
  });
  server.unref();
  const { port: bound } = server.address() as AddressInfo;
  return { port: bound, url: `http://127.0.0.1:${bound}`, close: () => shut(server, open) };
}

function hold(open: Set<Duplex>, stream: Duplex): void {
  open.add(stream);
  stream.once("close", () => open.delete(stream));
  stream.on("error", () => stream.destroy());
}

function shut(server: Server, open: Set<Duplex>): Promise<void> {
  return new Promise((done) => {
    server.close(() => done());
    open.forEach((stream) => stream.destroy());
  });
}

export function checkPort(port: number): number {
  if (!Number.isInteger(port) || port < 1 || port > 65535) {
    throw new InvalidError(`find port: ${String(port)} is not a port`, { hint: "use a number from 1 to 65535" });
  }
  return port;
}
