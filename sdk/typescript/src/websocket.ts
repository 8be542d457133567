import { createHash, randomBytes } from "node:crypto";
import type { Duplex } from "node:stream";

import { ByteReader } from "./bytes.js";
import { UnavailableError } from "./errors.js";
import type { Call, Transport } from "./transport.js";

/** RFC 6455, section 1.3. */
const acceptSuffix = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const maxMessage = 16 << 20;
/** How long the other side may take to answer a close. */
const closeMs = 1_000;
/** How long the other side may be silent after a ping. */
const silenceMs = 45_000;
const pingMs = 15_000;

const opContinue = 0, opText = 1, opBinary = 2, opClose = 8, opPing = 9, opPong = 10;

/** A whole message. */
export type Message = { text: string } | { data: Uint8Array };

/** A defect of the other side, with the close code that says so. */
class ProtocolError extends Error {
  constructor(readonly code: number, message: string) {
    super(message);
  }
}

/** The client's side of a WebSocket, RFC 6455, without extensions. */
export class WebSocket {
  readonly #socket: Duplex;
  readonly #reader: ByteReader;
  readonly #heartbeat: NodeJS.Timeout;
  #heard = Date.now();
  #reading = false;
  #closing = false;
  #failure: Error | undefined;
  #ended: Promise<void>;

  /** Connects. A refusal is the daemon's error. */
  static async connect(transport: Transport, call: Call): Promise<WebSocket> {
    const key = randomBytes(16).toString("base64");
    const headers = { ...call.headers, "Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13" };
    const { socket, response } = await transport.upgrade({ ...call, headers }, "websocket");
    const want = createHash("sha1").update(key + acceptSuffix).digest("base64");
    if (response.headers["sec-websocket-accept"] !== want || response.headers["sec-websocket-extensions"] !== undefined) {
      socket.destroy();
      throw new UnavailableError(`${call.op}: the reply is not a WebSocket's`, {
        hint: "something between here and the daemon does not pass upgrades; connect without it",
      });
    }
    return new WebSocket(socket);
  }

  /** Takes over a connection on which the handshake is done. */
  constructor(socket: Duplex) {
    this.#socket = socket;
    this.#ended = new Promise((done) => socket.once("close", done));
    socket.on("error", (err) => {
      this.#failure ??= err;
    });
    this.#reader = new ByteReader(socket);
    this.#heartbeat = setInterval(() => this.#beat(), pingMs);
    this.#heartbeat.unref();
    void this.#ended.then(() => clearInterval(this.#heartbeat));
  }

  /** Yields messages until the other side closes, or throws what broke the connection. */
  async *messages(): AsyncGenerator<Message, void, undefined> {
    try {
      yield* this.#messages();
    } catch (err) {
      if (err instanceof ProtocolError) {
        await this.close(err.code);
      }
      throw this.#failure ?? err;
    } finally {
      this.#socket.destroy();
    }
  }

  /** Sends a message, and returns when there is room for the next. */
  async send(data: string | Uint8Array): Promise<void> {
    const text = typeof data === "string";
    await this.#frame(text ? opText : opBinary, text ? Buffer.from(data) : data);
  }

  /** Says goodbye, waits a moment for an answer, and ends the connection. */
  async close(code = 1000): Promise<void> {
    if (!this.#closing && !this.#socket.destroyed) {
      this.#closing = true;
      await this.#frame(opClose, Buffer.from([code >> 8, code & 0xff])).catch(() => undefined);
      this.#socket.end();
      const timer = setTimeout(() => this.#socket.destroy(), closeMs);
      this.#socket.resume(); // nobody may be reading, and only who reads sees the end
      await this.#ended;
      clearTimeout(timer);
    }
    this.#socket.destroy();
  }

  /** Ends the connection at once. */
  destroy(reason?: Error): void {
    this.#failure ??= reason;
    this.#socket.destroy(reason);
  }

  async *#messages(): AsyncGenerator<Message, void, undefined> {
    let kind = 0;
    let parts: Uint8Array[] = [];
    let size = 0;
    for (;;) {
      const frame = await this.#next();
      if (frame.op === opPing) {
        await this.#frame(opPong, frame.payload);
      } else if (frame.op === opClose) {
        const code = closeCode(frame.payload);
        await this.close(code === 1005 ? 1000 : code);
        if (code !== 1000 && code !== 1001 && code !== 1005) {
          throw new Error(`the daemon closed the connection with ${code}: ${frame.payload.subarray(2).toString()}`);
        }
        return;
      } else if (frame.op < opClose) {
        if ((frame.op === opContinue) !== (kind !== 0)) {
          throw new ProtocolError(1002, "a message in the middle of another, or a rest of none");
        }
        kind ||= frame.op;
        parts.push(frame.payload);
        size += frame.payload.length;
        if (size > maxMessage) {
          throw new ProtocolError(1009, "a message is too long");
        }
        if (frame.final) {
          yield toMessage(kind, Buffer.concat(parts));
          kind = size = 0;
          parts = [];
        }
      }
    }
  }

  async #next(): Promise<{ final: boolean; op: number; payload: Buffer }> {
    const head = await this.#read(2);
    const first = head[0] ?? 0, second = head[1] ?? 0;
    const final = (first & 0x80) !== 0, op = first & 0x0f;
    if ((first & 0x70) !== 0 || (second & 0x80) !== 0) {
      throw new ProtocolError(1002, "a frame has bits that mean nothing here");
    }
    const control = op >= opClose;
    if ((op > opBinary && !control) || op > opPong || (control && (!final || second > 125))) {
      throw new ProtocolError(1002, `a frame of kind ${op} is wrong`);
    }
    let length = second;
    if (second === 126) {
      length = (await this.#read(2)).readUInt16BE();
    } else if (second === 127) {
      length = Number((await this.#read(8)).readBigUInt64BE());
    }
    if (length > maxMessage) {
      throw new ProtocolError(1009, "a frame is too long");
    }
    const payload = length === 0 ? Buffer.alloc(0) : await this.#read(length);
    return { final, op, payload };
  }

  async #read(n: number): Promise<Buffer> {
    this.#heard = Date.now();
    this.#reading = true;
    const data = await this.#reader.exactly(n).finally(() => {
      this.#reading = false;
    });
    if (data === undefined) {
      throw new Error("the connection ended without a close");
    }
    return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  }

  async #frame(op: number, payload: Uint8Array): Promise<void> {
    if (this.#socket.destroyed || this.#socket.writableEnded) {
      throw this.#failure ?? new Error("the connection is closed");
    }
    const length = payload.length;
    const extended = length < 126 ? 0 : length < 65536 ? 2 : 8;
    const frame = Buffer.alloc(2 + extended + 4 + length);
    frame[0] = 0x80 | op;
    frame[1] = 0x80 | (extended === 0 ? length : extended === 2 ? 126 : 127);
    if (extended === 2) {
      frame.writeUInt16BE(length, 2);
    } else if (extended === 8) {
      frame.writeBigUInt64BE(BigInt(length), 2);
    }
    const mask = randomBytes(4);
    const start = 2 + extended + 4;
    mask.copy(frame, start - 4);
    for (let i = 0; i < length; i++) {
      frame[start + i] = (payload[i] ?? 0) ^ (mask[i & 3] ?? 0);
    }
    // The callback comes when the kernel has it, or never will.
    await new Promise<void>((done, fail) => {
      this.#socket.write(frame, (err) => (err ? fail(err) : done()));
    });
  }

  #beat(): void {
    // Only while somebody reads: who reads slowly is not a dead connection.
    if (this.#reading && Date.now() - this.#heard > silenceMs) {
      this.destroy(new Error(`nothing arrived for ${silenceMs / 1000} s`));
      return;
    }
    this.#frame(opPing, Buffer.alloc(0)).catch(() => undefined); // the reader sees what broke
  }
}

function closeCode(payload: Buffer): number {
  if (payload.length === 0) {
    return 1005;
  }
  const code = payload.length === 1 ? 0 : payload.readUInt16BE();
  const valid = (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code < 5000);
  if (!valid) {
    throw new ProtocolError(1002, `a close with the code ${code}`);
  }
  return code;
}

function toMessage(kind: number, data: Buffer): Message {
  if (kind === opBinary) {
    return { data: new Uint8Array(data) };
  }
  try {
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(data) };
  } catch {
    throw new ProtocolError(1007, "a text is not UTF-8");
  }
}
