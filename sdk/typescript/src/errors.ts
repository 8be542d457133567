/** What kind of error it is. The list is append-only; a newer daemon may send others. */
export type ErrorCode =
  | "invalid"
  | "unauthenticated"
  | "forbidden"
  | "not_found"
  | "conflict"
  | "gone"
  | "too_large"
  | "unsupported"
  | "exhausted"
  | "internal"
  | "unavailable"
  | "timeout"
  | "no_space";

/** What a {@link CoveError} is made of. */
export interface ErrorDetails {
  /** What to do about it. */
  hint?: string | undefined;
  /** The innermost error, where the message says more than that. */
  reason?: string | undefined;
  /** Of a command that could not be started: 127 where there is no such program, 126 where it can't be executed. */
  exitCode?: number | undefined;
  /** HTTP status, where a daemon answered. */
  status?: number | undefined;
  /** When to try again, where the daemon said so. */
  retryAfterMs?: number | undefined;
  /** The error beneath. */
  cause?: unknown;
}

/** The base of every error of this package, except for the reason of an `AbortSignal`, which is thrown as it is. */
export class CoveError extends Error {
  /** An {@link ErrorCode}, `"exit"` of a {@link CommandExitError}, or one that this version does not know. */
  readonly code: string;
  readonly hint: string | undefined;
  readonly reason: string | undefined;
  readonly exitCode: number | undefined;
  readonly status: number | undefined;
  readonly retryAfterMs: number | undefined;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    const text = details.hint ? `${message} (${details.hint})` : message;
    super(text, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = details.hint;
    this.reason = details.reason;
    this.exitCode = details.exitCode;
    this.status = details.status;
    this.retryAfterMs = details.retryAfterMs;
  }
}

const make = (code: ErrorCode) =>
  class extends CoveError {
    constructor(message: string, details?: ErrorDetails) {
      super(code, message, details);
    }
  };

/** What was asked for makes no sense. */
export class InvalidError extends make("invalid") {}
/** The daemon wants a key, or another one. */
export class UnauthenticatedError extends make("unauthenticated") {}
/** It is not allowed. */
export class ForbiddenError extends make("forbidden") {}
/** There is no such sandbox, file or process. */
export class NotFoundError extends make("not_found") {}
/** It is in the way of something that is there already. */
export class ConflictError extends make("conflict") {}
/** It was there and is no more. */
export class GoneError extends make("gone") {}
/** It is more than is accepted. */
export class TooLargeError extends make("too_large") {}
/** The runtime, or the daemon as it is set up, can't do it. */
export class NotSupportedError extends make("unsupported") {}
/** The host has no room for it now, or too much was asked for in a short time. */
export class ExhaustedError extends make("exhausted") {}
/** A defect, or something that the daemon did not expect. */
export class InternalError extends make("internal") {}
/** The daemon does not answer, or went away. */
export class UnavailableError extends make("unavailable") {}
/** It took too long. */
export class TimeoutError extends make("timeout") {}
/** A disk is full. */
export class NoSpaceError extends make("no_space") {}

type ErrorClass = new (message: string, details?: ErrorDetails) => CoveError;

const classes: Readonly<Record<ErrorCode, ErrorClass>> = {
  invalid: InvalidError,
  unauthenticated: UnauthenticatedError,
  forbidden: ForbiddenError,
  not_found: NotFoundError,
  conflict: ConflictError,
  gone: GoneError,
  too_large: TooLargeError,
  unsupported: NotSupportedError,
  exhausted: ExhaustedError,
  internal: InternalError,
  unavailable: UnavailableError,
  timeout: TimeoutError,
  no_space: NoSpaceError,
};

/** Makes the error of a code; one of a newer daemon is a plain {@link CoveError}. */
export function errorOf(code: string, message: string, details?: ErrorDetails): CoveError {
  if (Object.hasOwn(classes, code)) {
    return new classes[code as ErrorCode](message, details);
  }
  return new CoveError(code, message, details);
}

const statuses: Readonly<Record<number, ErrorCode>> = {
  400: "invalid", 401: "unauthenticated", 403: "forbidden", 404: "not_found", 408: "timeout", 409: "conflict",
  410: "gone", 413: "too_large", 414: "too_large", 422: "unsupported", 429: "exhausted", 431: "too_large",
  500: "internal", 501: "unsupported", 502: "unavailable", 503: "unavailable", 504: "timeout", 507: "no_space",
};

/** The code of a status that came without one, from something between here and the daemon. */
export function codeOfStatus(status: number): ErrorCode {
  return statuses[status] ?? (status >= 500 ? "internal" : "invalid");
}

/** Makes the error that a daemon describes in a reply, a frame or an event. */
export function errorOfBody(body: unknown, op: string, status?: number, retryAfterMs?: number): CoveError {
  const at = typeof body === "object" && body !== null ? (body as Record<string, unknown>) : {};
  const text = (key: string): string | undefined => (typeof at[key] === "string" ? at[key] : undefined);
  const code = text("code") ?? (status === undefined ? "internal" : codeOfStatus(status));
  const message = text("message") ?? `${op}: the daemon answered ${status ?? "with an error that says nothing"}`;
  return errorOf(code, message, {
    hint: text("hint"),
    reason: text("cause"),
    exitCode: typeof at["exit_code"] === "number" ? at["exit_code"] : undefined,
    status,
    retryAfterMs,
  });
}

/** The error of a reply that ended too early or makes no sense. */
export function broken(op: string, cause: unknown): Error {
  if (cause instanceof CoveError) {
    return cause;
  }
  const text = cause instanceof Error ? cause.message : String(cause);
  return new UnavailableError(`${op}: the connection to the daemon broke: ${text}`, {
    hint: "it went away in the middle of a reply; check that it runs and try again",
    cause,
  });
}
