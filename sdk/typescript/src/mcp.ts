/**
 * Cove's MCP server as clients of the Model Context Protocol are told of it: the Claude
 * Agent SDK's `mcpServers`, or a transport of the protocol's own SDK.
 *
 * @packageDocumentation
 */
import { amount, checkOptions, flag, text, texts, type Shape } from "./check.js";
import { findProgram, locate } from "./daemon.js";
import { NotSupportedError } from "./errors.js";
import type { ConnectionOptions } from "./transport.js";

/** What the sandbox of a session is, and which daemon makes it. See docs/mcp.md. */
export interface MCPOptions extends ConnectionOptions {
  runtime?: string | undefined;
  image?: string | undefined;
  memory?: string | undefined;
  cpus?: number | undefined;
  user?: string | undefined;
  workdir?: string | undefined;
  network?: "none" | "allow" | "open" | undefined;
  /** What it may reach, as in "pip" or "api.github.com". */
  allow?: readonly string[] | undefined;
  /** Take the sandbox of this name where there is one, and leave it behind. */
  name?: string | undefined;
  /** Use the sandbox with this id or name, and never remove it. */
  sandbox?: string | undefined;
  /** Let the model use, see and kill every sandbox that you can. */
  all?: boolean | undefined;
}

/** A server that is a program. */
export interface StdioServer {
  type: "stdio";
  command: string;
  args: string[];
  env: Record<string, string>;
}

/** A server that is an address. */
export interface HTTPServer {
  type: "http";
  url: string;
  headers: Record<string, string>;
}

const flags = ["runtime", "image", "memory", "cpus", "user", "workdir", "network", "name", "sandbox"] as const;
const shape: Shape = { ...Object.fromEntries(flags.map((name) => [name, text])), cpus: amount, allow: texts, all: flag, url: text, apiKey: text, bin: text, ca: text };
/** What the program needs of this one's environment to find the same daemon. */
const kept = ["COVE_STATE_DIR", "COVE_DATA_DIR", "COVE_BIN", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "HOME", "PATH", "DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINERD_ADDRESS"];

/** The program `cove mcp`, which gives its client a sandbox until it ends. */
export function mcpServer(options: MCPOptions = {}): StdioServer {
  if (options.ca !== undefined) {
    throw new NotSupportedError("mcp: the program cove trusts the system's certificates", { hint: "use mcpAddress, or add the certificate to the system's" });
  }
  const args = ["mcp"];
  for (const [name, value] of parameters(options)) {
    args.push(`--${name}=${value}`);
  }
  const env: Record<string, string> = {};
  for (const name of kept) {
    env[name] = process.env[name] ?? "";
  }
  env["COVE_URL"] = options.url ?? process.env["COVE_URL"] ?? "";
  env["COVE_API_KEY"] = options.apiKey ?? process.env["COVE_API_KEY"] ?? "";
  return { type: "stdio", command: findProgram(options.bin, process.env), args, env: Object.fromEntries(Object.entries(env).filter(([, value]) => value !== "")) };
}

/** A daemon's own server, at an address of the network. */
export function mcpAddress(options: MCPOptions = {}): HTTPServer {
  const { base, socket } = locate(options.url);
  if (socket !== undefined) {
    throw new NotSupportedError("mcp: the daemon has no address that a client could reach", { hint: "use mcpServer, or set url to that of cove serve --listen" });
  }
  const url = new URL(`${base.href.replace(/\/$/, "")}/mcp`);
  for (const [name, value] of parameters(options)) {
    url.searchParams.append(name, value);
  }
  const key = options.apiKey ?? process.env["COVE_API_KEY"];
  return { type: "http", url: url.href, headers: key ? { Authorization: `Bearer ${key}` } : {} };
}

function parameters(options: MCPOptions): [string, string][] {
  checkOptions("mcp", options, shape);
  const out: [string, string][] = [];
  for (const name of flags) {
    if (options[name] !== undefined) {
      out.push([name, String(options[name])]);
    }
  }
  if (options.allow !== undefined && options.allow.length > 0) {
    out.push(["allow", options.allow.join(",")]);
  }
  if (options.all === true) {
    out.push(["all", "true"]);
  }
  return out;
}
