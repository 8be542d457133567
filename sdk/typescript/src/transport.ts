import { once } from "node:events";
import * as http from "node:http";
import * as https from "node:https";
import { dirname } from "node:path";
import type { Duplex } from "node:stream";

import { readAll } from "./bytes.js";
import type { Address } from "./daemon.js";
import { answers, locate, start, trust } from "./daemon.js";
import { abort, checkOptions, checkValue, text } from "./check.js";
import { broken, CoveError, errorOfBody, InvalidError, UnavailableError } from "./errors.js";

/** Which daemon to speak to. Nothing set means COVE_URL, else this machine's, which is started where it does not run. */
export interface ConnectionOptions {
  /** `unix:///path/of/socket`, `http://host:port` or `https://host:port`, the latter two optionally with a path. Default COVE_URL. */
  url?: string | undefined;
  /** Default COVE_API_KEY. A unix socket needs none. */
  apiKey?: string | undefined;
  /** The program `cove`, or its directory, by which a daemon is started. Default COVE_BIN, then PATH. */
  bin?: string | undefined;
  /** Certificates (PEM) to trust for https instead of the system's. */
  ca?: string | undefined;
}

/** The values of a query. What is undefined is left out. */
export type Query = Readonly<Record<string, string | number | boolean | readonly string[] | undefined>>;

/** One call of the API. The path is escaped already. */
export interface Call {
  op: string;
  method: string;
  path: string;
  query?: Query | undefined;
  accept?: string;
  headers?: Readonly<Record<string, string>>;
  json?: unknown;
  body?: Uint8Array | AsyncIterable<Uint8Array> | undefined;
  signal?: AbortSignal | undefined;
  /** Whether doing it twice is the same as once. Default: all but POST. */
  repeatable?: boolean;
}

/** Bounds what is kept of a JSON reply. */
const maxReply = 64 << 20;
const maxError = 1 << 20;
/** How long a refusal of a body is waited for before it is sent. */
const continueMs = 2_000;
/** Bodies up to this are sent without asking first. */
const smallBody = 64 << 10;
/** Connections that nobody uses are given up before a daemon would. */
const idleMs = 20_000;

/** Speaks HTTP with one daemon. */
export class Transport {
  readonly address: Address;
  readonly key: string | undefined;
  readonly #options: ConnectionOptions;
  readonly #agent: http.Agent;
  #trusted: Promise<void> | undefined;
  #starting: Promise<void> | undefined;

  constructor(options: ConnectionOptions = {}) {
    checkOptions("connect", options, { url: text, apiKey: text, bin: text, ca: text });
    this.#options = options;
    this.address = locate(options.url);
    this.key = (options.apiKey ?? process.env["COVE_API_KEY"]) || undefined;
    const agent = { keepAlive: true, timeout: idleMs, maxFreeSockets: 32 };
    this.#agent = this.address.base.protocol === "https:" ? new https.Agent(agent) : new http.Agent(agent);
  }

  /** Closes connections that are idle. */
  close(): void {
    this.#agent.destroy();
  }

  /** Sends a call and decodes its JSON reply. */
  async json(call: Call, most = maxReply): Promise<unknown> {
    const response = await this.send(call);
    try {
      const data = await readAll(response, most);
      return data.length === 0 ? undefined : JSON.parse(new TextDecoder().decode(data));
    } catch (err) {
      call.signal?.throwIfAborted();
      throw broken(call.op, err);
    }
  }

  /** Sends a call. A reply of 300 and above is an error; otherwise the caller reads the reply to its end or destroys it. */
  async send(call: Call): Promise<http.IncomingMessage> {
    checkSignal(call);
    call.signal?.throwIfAborted();
    const streams = call.body !== undefined && !(call.body instanceof Uint8Array);
    await this.#prepare(streams);
    try {
      return await this.#attempt(call);
    } catch (err) {
      if (streams || call.signal?.aborted || !(err instanceof Failure)) {
        throw this.#explain(call, err);
      }
      if (err.unanswered && this.address.own) {
        await this.#start();
      } else if (!(err.stale && (call.repeatable ?? call.method !== "POST"))) {
        throw this.#explain(call, err);
      }
    }
    return this.#attempt(call).catch((err: unknown) => {
      throw this.#explain(call, err);
    });
  }

  /** Makes a call whose reply is another protocol, and returns the connection. */
  async upgrade(call: Call, protocol: string): Promise<{ socket: Duplex; response: http.IncomingMessage }> {
    checkSignal(call);
    call.signal?.throwIfAborted();
    await this.#prepare(true);
    const request = this.#request({ ...call, headers: { ...call.headers, Connection: "Upgrade", Upgrade: protocol } }, false);
    const stop = onAbort(call.signal, (reason) => request.destroy(reason));
    request.end();
    try {
      return await new Promise((done, fail) => {
        request.once("upgrade", (response, socket, head) => {
          if (head.length > 0) {
            socket.unshift(head);
          }
          done({ socket, response });
        });
        request.once("response", (response) => {
          refusal(call.op, response).then(fail, fail);
        });
        request.on("error", (err) => fail(this.#explain(call, new Failure(err, false, false))));
      });
    } finally {
      stop();
    }
  }

  /** The address of an API path; through a unix socket only this transport reaches it. */
  url(path: string): string {
    return this.address.base.href.replace(/\/$/, "") + path;
  }

  /** Looks at this user's own daemon before it is spoken to, and starts it for a call that can't be sent twice. */
  async #prepare(once: boolean): Promise<void> {
    const { own, socket = "" } = this.address;
    if (!own) {
      return;
    }
    await (this.#trusted ??= trust(dirname(socket)));
    if (once && !(await answers(socket))) {
      await this.#start();
    }
  }

  async #start(): Promise<void> {
    this.#starting ??= start(this.#options.bin).finally(() => {
      this.#starting = undefined;
    });
    await this.#starting;
  }

  async #attempt(call: Call): Promise<http.IncomingMessage> {
    const data = call.json === undefined ? call.body : encode(call);
    const asks = data !== undefined && (!(data instanceof Uint8Array) || data.length > smallBody);
    const headers: Record<string, string> = { ...call.headers };
    if (data !== undefined) {
      headers["Content-Type"] ??= call.json === undefined ? "application/octet-stream" : "application/json";
    }
    if (data instanceof Uint8Array) {
      headers["Content-Length"] = String(data.length);
    }
    if (asks) {
      headers["Expect"] = "100-continue";
    }
    const request = this.#request({ ...call, headers }, true);
    const stop = onAbort(call.signal, (reason) => request.destroy(reason));
    const answered = new Promise<http.IncomingMessage>((done, fail) => {
      request.once("response", done);
      request.on("error", (err) => fail(new Failure(err, isUnanswered(err), request.reusedSocket)));
    });
    answered.catch(() => undefined); // looked at below, but perhaps not before it happens
    let response: http.IncomingMessage;
    try {
      await sendBody(request, data, asks, answered);
      response = await answered;
    } catch (err) {
      stop();
      request.destroy();
      throw err;
    }
    // After the reply has come, aborting means to stop reading it.
    response.once("close", stop);
    if ((response.statusCode ?? 500) >= 300) {
      throw await refusal(call.op, response);
    }
    return response;
  }

  #request(call: Call, pooled: boolean): http.ClientRequest {
    const headers: Record<string, string> = { Accept: call.accept ?? "application/json", ...call.headers };
    if (this.key !== undefined) {
      headers["Authorization"] = `Bearer ${this.key}`;
    }
    const { base, socket } = this.address;
    const options: https.RequestOptions = {
      method: call.method,
      path: base.pathname.replace(/\/$/, "") + call.path + encodeQuery(call.query),
      headers,
      host: base.hostname.replace(/^\[|\]$/g, ""),
      agent: pooled ? this.#agent : false,
      ...(base.port === "" ? {} : { port: base.port }),
      ...(socket === undefined ? {} : { socketPath: socket }),
      ...(this.#options.ca === undefined ? {} : { ca: this.#options.ca }),
    };
    try {
      return (base.protocol === "https:" ? https : http).request(options);
    } catch (err) {
      throw new InvalidError(`${call.op}: the request can't be written: ${messageOf(err)}`, {
        hint: "a key, user or name has a character that HTTP does not carry",
      });
    }
  }

  #explain(call: Call, err: unknown): unknown {
    if (call.signal?.aborted) {
      return call.signal.reason;
    }
    if (!(err instanceof Failure)) {
      return err;
    }
    if (err.cause instanceof CoveError) {
      return err.cause;
    }
    const where = this.address.socket ?? this.address.base.origin;
    return new UnavailableError(`${call.op}: the daemon at ${where} did not answer: ${err.message}`, {
      hint: "check that it runs (cove serve) and that the address is right",
      cause: err.cause,
    });
  }
}

function encode(call: Call): Uint8Array {
  try {
    return Buffer.from(JSON.stringify(call.json));
  } catch (err) {
    throw new InvalidError(`${call.op}: what to send is not JSON: ${messageOf(err)}`, { hint: "leave out functions, bigints, and objects that hold themselves" });
  }
}

function checkSignal(call: Call): void {
  if (call.signal !== undefined) {
    checkValue(call.op, "signal", call.signal, abort);
  }
}

/** Why a request got no reply. */
class Failure extends Error {
  constructor(cause: unknown, readonly unanswered: boolean, readonly stale: boolean) {
    super(messageOf(cause), { cause });
  }
}

const messageOf = (err: unknown): string => (err instanceof Error ? err.message || err.name : String(err));

function isUnanswered(err: NodeJS.ErrnoException): boolean {
  return err.syscall === "connect" && (err.code === "ECONNREFUSED" || err.code === "ENOENT");
}

/** Sends a body, as fast as it is taken. A reply that comes before its end makes the rest pointless. */
async function sendBody(
  request: http.ClientRequest,
  data: Uint8Array | AsyncIterable<Uint8Array> | undefined,
  asks: boolean,
  answered: Promise<http.IncomingMessage>,
): Promise<void> {
  if (data === undefined || (data instanceof Uint8Array && !asks)) {
    request.end(data);
    return;
  }
  let stopped = false;
  const stop = answered.then(() => { stopped = true; }, () => { stopped = true; });
  request.flushHeaders();
  const giveUp = new AbortController();
  const timer = setTimeout(() => giveUp.abort(), continueMs);
  await Promise.race([once(request, "continue", { signal: giveUp.signal }).catch(() => undefined), stop]);
  clearTimeout(timer);
  giveUp.abort();
  if (!stopped && data instanceof Uint8Array) {
    request.end(data);
    return;
  }
  if (!stopped) {
    await pour(data as AsyncIterable<Uint8Array>, request, stop, () => stopped);
  }
  if (!stopped) {
    request.end();
  }
}

/** Sends what a source yields. What it throws is the cause of whatever follows, and a body that is cut off is not taken for a whole one. */
async function pour(data: AsyncIterable<Uint8Array>, request: http.ClientRequest, stop: Promise<void>, stopped: () => boolean): Promise<void> {
  const source = data[Symbol.asyncIterator]();
  for (;;) {
    const next = source.next();
    // A source may block for ever. Nobody waits for it when the request is over.
    const piece = await Promise.race([next, stop]);
    if (piece === undefined || stopped()) {
      next.catch(() => undefined);
      source.return?.().catch(() => undefined);
      return;
    }
    if (piece.done) {
      return;
    }
    if (!request.write(piece.value)) {
      await Promise.race([once(request, "drain").catch(() => undefined), stop]);
    }
  }
}

/** Reads the error of a reply. */
async function refusal(op: string, response: http.IncomingMessage): Promise<CoveError> {
  const status = response.statusCode ?? 500;
  let body: unknown;
  try {
    const data = await readAll(response, maxError);
    body = (JSON.parse(new TextDecoder().decode(data)) as { error?: unknown }).error;
  } catch {
    body = undefined; // it came from something in between, which the status has to do for
  } finally {
    response.destroy();
  }
  const seconds = Number(response.headers["retry-after"]);
  return errorOfBody(body, op, status, Number.isFinite(seconds) ? seconds * 1000 : undefined);
}

/** Calls stop when the signal fires; the returned function ends that. */
export function onAbort(signal: AbortSignal | undefined, stop: (reason: Error) => void): () => void {
  if (signal === undefined) {
    return () => undefined;
  }
  const listener = (): void => {
    const reason: unknown = signal.reason;
    stop(reason instanceof Error ? reason : new Error("aborted", { cause: reason }));
  };
  signal.addEventListener("abort", listener, { once: true });
  if (signal.aborted) {
    listener();
  }
  return () => signal.removeEventListener("abort", listener);
}

function encodeQuery(query: Query | undefined): string {
  const out = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {})) {
    if (Array.isArray(value)) {
      value.forEach((item: string) => out.append(key, item));
    } else if (value !== undefined) {
      out.append(key, String(value));
    }
  }
  const text = out.toString();
  return text === "" ? "" : "?" + text;
}
