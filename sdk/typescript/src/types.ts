/** Bytes, or with a unit of 1024 as in "512MiB" or "512m". */
export type Size = number | string;

export interface Limits {
  /** Processors, in fractions of one; default 1. */
  cpus?: number;
  /** The same as `cpus`. */
  cpu?: number;
  /** Default 512MiB. */
  memory?: Size;
  /** Bytes written to the root filesystem; default 2GiB. */
  disk?: Size;
  /** Processes and threads; default 256. */
  pids?: number;
  /** Size of /dev/shm; default 64MiB. */
  shm?: Size;
}

export interface NetworkLimits {
  connections?: number;
  /** Bytes a second, each way. */
  rate?: Size;
  /** Bytes in all, both ways. */
  total?: Size;
}

export interface RequestRule {
  /** NAME or *.NAME, with :PORT where that is not 80 or 443. */
  host: string;
  action?: "allow" | "deny" | "audit";
  methods?: string[];
  /** Globs, in which * stays in a segment and ** does not. */
  paths?: string[];
  /** Headers that are set on the way; no secret may be here. */
  headers?: Record<string, string>;
}

/** Where in a request a secret may be. */
export type SecretPlace = "header" | "query" | "body";

/** A secret that a sandbox uses without seeing it. */
export interface SecretUse {
  /** One of the daemon's, or of this sandbox alone where `value` is given. */
  name: string;
  value?: string;
  /** Where it may go. */
  hosts?: string[];
  in?: SecretPlace[];
  /** Variable that has the placeholder; default the name. */
  env?: string;
}

export type NetworkMode = "none" | "allow" | "open";

export interface NetworkUpdate {
  mode?: NetworkMode;
  /** Rules: NAME, *.NAME, ADDRESS or CIDR with ports, a preset as in "pip", or sandbox:NAME:PORT. */
  allow?: string[];
  deny?: string[];
  requests?: RequestRule[];
  secrets?: SecretUse[];
  limits?: NetworkLimits;
}

export interface Network extends NetworkUpdate {
  /** It can't be changed later. */
  final?: boolean;
}

export interface NetworkStatus {
  network: Network;
  /** Connections now, and so far. */
  open: number;
  total: number;
  refused: number;
  /** Bytes. */
  received: number;
  sent: number;
}

export interface NetworkEvent {
  seq: number;
  time: Date;
  kind: "lookup" | "connection" | "closed" | "request";
  allowed: boolean;
  rule?: string;
  reason?: string;
  name?: string;
  address?: string;
  port?: number;
  method?: string;
  path?: string;
  status?: number;
  secrets?: string[];
  received?: number;
  sent?: number;
}

export interface NetworkPreset {
  name: string;
  rules: string[];
  source: string;
  error?: string;
  warnings?: string[];
}

export interface Mount {
  type: "bind" | "volume" | "tmpfs";
  source?: string;
  target: string;
  readOnly?: boolean;
  remove?: boolean;
  size?: Size;
}

export interface PortMapping {
  /** Inside. */
  port: number;
  /** On the daemon's machine; 0 or none is a free one. */
  hostPort?: number;
  address?: string;
}

export interface Ulimit {
  name: string;
  soft: number;
  hard: number;
}

/** What some runtimes have beside the rest. */
export interface RuntimeOptions {
  capAdd?: string[];
  capDrop?: string[];
  devices?: string[];
  dns?: string[];
  networkMode?: string;
  privileged?: boolean;
}

/** What a sandbox is asked to be. What is not said is a default. */
export interface Spec {
  /** Unique among living sandboxes; usable in place of the id. */
  name?: string;
  /** What isolates: gvisor (default), runc, docker, kata, … */
  runtime?: string;
  /** host (default), an OCI reference, or an archive. */
  image?: string;
  pull?: "missing" | "always" | "never";
  platform?: string;
  limits?: Limits;
  network?: Network;
  env?: Record<string, string>;
  user?: string;
  workdir?: string;
  mounts?: Mount[];
  ports?: PortMapping[];
  ulimits?: Ulimit[];
  /** Lines of /etc/hosts: name to address. */
  hosts?: Record<string, string>;
  options?: RuntimeOptions;
  readOnly?: boolean;
  labels?: Record<string, string>;
  /** Accept controls that the runtime can't fully enforce. */
  bestEffort?: boolean;
  /** Seconds, or as in "90s" or "never". */
  timeout?: number | string;
  ttl?: number | string;
  idle?: number | string;
}

export type SandboxState = "creating" | "running" | "paused" | "stopped" | "failed";

/** A sandbox as the daemon tells it. */
export interface SandboxInfo {
  id: string;
  name?: string;
  state: SandboxState;
  runtime: string;
  isolation: string;
  /** How far each control holds. */
  controls: Record<string, string>;
  acquired: string;
  createdAt: Date;
  /** When it is destroyed; of a leased one, when its lease ends. */
  expiresAt?: Date;
  reason?: string;
  message?: string;
  spec: Spec;
}

/** What a sandbox uses. What its runtime can't tell is absent. Sizes are in bytes. */
export interface Stats {
  time: Date;
  /** Seconds of processor time since it was created. */
  cpuTime?: number;
  memory?: number;
  memoryLimit: number;
  processes?: number;
  disk?: number;
  diskLimit: number;
  received?: number;
  sent?: number;
}

export interface ListeningPort {
  port: number;
  address: string;
  pid?: number;
  command?: string;
}

export interface Preview {
  port: number;
  /** For a browser. */
  url: string;
  /** For programs, as the header Cove-Preview-Token. */
  token: string;
  expiresAt: Date;
}

export type EventType =
  | "sandbox.creating" | "sandbox.running" | "sandbox.updated" | "sandbox.stopped" | "sandbox.failed" | "sandbox.removed"
  | "port.opened" | "port.closed";

/** Something that happened to a sandbox. */
export interface SandboxEvent {
  /** Increases by one; restarts with the daemon. */
  seq: number;
  time: Date;
  type: EventType;
  sandbox: SandboxInfo;
  port?: ListeningPort;
}

export interface EventOptions {
  /** Replay those after this number; 0 is all that are kept. Default: none. */
  after?: number;
  /** Only of the sandbox with this id or name. */
  sandbox?: string;
  types?: EventType[];
  /** End after those that are kept. */
  noFollow?: boolean;
  signal?: AbortSignal;
}

export interface Secret {
  name: string;
  /** Whose sandboxes alone may use it; missing: everybody's. */
  owner?: string;
  hosts: string[];
  in: SecretPlace[];
  createdAt: Date;
  updatedAt: Date;
}

export interface SecretInput {
  /** Never read back. */
  value: string;
  /** Where it may go: NAME or *.NAME, with :PORT where that is not 443. */
  hosts: string[];
  in?: SecretPlace[];
}

export interface Build {
  version: string;
  api: string;
  go: string;
  os: string;
  arch: string;
}

export interface RuntimeInfo {
  name: string;
  available: boolean;
  default: boolean;
  isolation?: string;
  version?: string;
  reason?: string;
  hint?: string;
  features?: string[];
  controls?: Record<string, string>;
  warnings?: string[];
}

/** What every method that asks the daemon takes. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
}
