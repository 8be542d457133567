/**
 * Names on the wire are snake_case and names here camelCase. What these keys hold are
 * names of users, which stay as they are.
 */
const verbatim = new Set(["env", "labels", "controls", "metadata", "headers"]);

/** Times are told as RFC 3339. */
const isTime = (key: string): boolean => key === "time" || key.endsWith("_at");

/** Turns a value of the API into one of this package: camelCase, and times as Date. */
export function fromWire<T>(value: unknown): T {
  return decode(value) as T;
}

function decode(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(decode);
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  const out: Record<string, unknown> = {};
  for (const [key, item] of Object.entries(value)) {
    const name = key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
    if (isTime(key) && typeof item === "string") {
      out[name] = new Date(item);
    } else {
      out[name] = isMap(key, item) ? item : decode(item);
    }
  }
  return out;
}

/** Turns a value of this package into one of the API. What is undefined is left out. */
export function toWire(value: unknown): unknown {
  if (Array.isArray(value)) {
    return value.map(toWire);
  }
  if (typeof value !== "object" || value === null) {
    return value;
  }
  const out: Record<string, unknown> = {};
  for (const [key, item] of Object.entries(value)) {
    if (item === undefined) {
      continue;
    }
    const name = key.replace(/[A-Z]/g, (letter) => "_" + letter.toLowerCase());
    out[name] = isMap(name, item) ? item : toWire(item);
  }
  return out;
}

function isMap(key: string, value: unknown): boolean {
  // hosts is a map in a spec, and a list in a secret.
  return verbatim.has(key) || (key === "hosts" && !Array.isArray(value));
}

/** A span of time as the API takes it; `undefined` stays, 0 and Infinity are for ever. */
export function duration(ms: number | undefined): string | undefined {
  if (ms === undefined) {
    return undefined;
  }
  return ms === 0 || ms === Infinity ? "never" : `${ms}ms`;
}
