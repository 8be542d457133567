import { InvalidError } from "./errors.js";

// The compiler checks programs in TypeScript. Those in JavaScript, and what came from
// elsewhere, are checked here: before anything is sent, with the name of what is wrong.

/** What a value has to be. */
export interface Kind {
  ok: (value: unknown) => boolean;
  what: string;
}

const kind = (what: string, ok: (value: unknown) => boolean): Kind => ({ ok, what });
const isObject = (value: unknown): value is object => typeof value === "object" && value !== null && !Array.isArray(value);
const isText = (value: unknown): boolean => typeof value === "string";

export const text = kind("a string", isText);
export const flag = kind("true or false", (value) => typeof value === "boolean");
export const callback = kind("a function", (value) => typeof value === "function");
export const object = kind("an object", isObject);
export const list = kind("an array", Array.isArray);
export const texts = kind("an array of strings", (value) => Array.isArray(value) && value.every(isText));
export const textMap = kind("an object of strings", (value) => isObject(value) && Object.values(value).every((item) => item === undefined || isText(item)));
export const count = kind("a whole number, 0 or more", (value) => Number.isSafeInteger(value) && (value as number) >= 0);
export const positive = kind("a whole number, 1 or more", (value) => Number.isSafeInteger(value) && (value as number) >= 1);
export const amount = kind("a number above 0", (value) => typeof value === "number" && value > 0 && value < Infinity);
/** A span of time in ms. 0 and Infinity are for ever. */
export const time = kind("a number of milliseconds, 0 or more", (value) => typeof value === "number" && value >= 0);
export const size = kind('a number of bytes, or a string as in "512m"', (value) => isText(value) || (typeof value === "number" && value >= 0 && value < Infinity));
export const chunk = kind("a string or a Uint8Array", (value) => isText(value) || value instanceof Uint8Array);
/** Permission bits; 755 for 0o755 is a mistake that is found. */
export const mode = kind("permission bits from 0 to 0o777", (value) => Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= 0o777);
export const abort = kind("an AbortSignal", (value) => value instanceof AbortSignal);

/** One of some strings. */
export function oneOf(...names: readonly string[]): Kind {
  return kind(names.map((name) => JSON.stringify(name)).join(" or "), (value) => names.includes(value as string));
}

/** One of several kinds. */
export function either(...kinds: readonly Kind[]): Kind {
  return kind(kinds.map((one) => one.what).join(" or "), (value) => kinds.some((one) => one.ok(value)));
}

/** What some fields of an object have to be. One that is absent is fine, and so are others. */
export type Shape = Readonly<Record<string, Kind>>;

/** Refuses a value that is not what it has to be. */
export function checkValue(op: string, name: string, value: unknown, want: Kind): void {
  if (!want.ok(value)) {
    throw new InvalidError(`${op}: ${name} is ${shown(value)}, not ${want.what}`, { hint: `pass ${want.what}` });
  }
}

/** Refuses options of which one is not what it has to be. */
export function checkOptions(op: string, options: unknown, shape: Shape, name = "the last argument"): void {
  checkValue(op, name, options, object);
  for (const [field, want] of Object.entries(shape)) {
    const value = (options as Record<string, unknown>)[field];
    if (value !== undefined) {
      checkValue(op, field, value, want);
    }
  }
}

/** What a value is, without telling it: it may be a secret. */
function shown(value: unknown): string {
  if (value === null || value === undefined || typeof value === "number") {
    return String(value);
  }
  if (Array.isArray(value)) {
    return "an array";
  }
  return typeof value === "object" ? `an object of ${value.constructor?.name ?? "no class"}` : `a ${typeof value}`;
}
