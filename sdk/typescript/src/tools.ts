import type {
  EditFileArguments, EditFileData, GlobArguments, GlobData, GrepArguments, GrepData, ListFilesArguments, ListFilesData, PatchFileArguments,
  PatchFileData, ReadFileArguments, ReadFileData, RunPythonArguments, RunPythonData, ShellArguments, ShellData, ToolArguments, ToolData,
  WriteFileArguments, WriteFileData,
} from "./_generated/tools.js";
import { segment, type Box } from "./box.js";
import { toolSchemas, type SchemaFormat, type ToolChoice, type ToolName } from "./definitions.js";
import { broken, InvalidError } from "./errors.js";
import type { CallOptions } from "./types.js";

/** What came of a call. */
export type ToolResult<D = unknown> = {
  /** For the model; bounded. */
  text: string;
  isError: false;
  /** The same in fields, as the tool's result schema has them. */
  data: D;
} | {
  text: string;
  /** The tool could not do what it was asked, or ran out of time. */
  isError: true;
  /** What there is all the same where the time was over; else nothing was done. */
  data: ToolFailure | D;
};

/** The data of a call that did nothing. */
export interface ToolFailure {
  /** As of a {@link CoveError}. */
  code: string;
  message: string;
  hint?: string;
}

/**
 * What an agent does in a sandbox, as functions for a model. They are carried out by the
 * daemon; their arguments and data have the names that the model sees.
 *
 * What a model did wrong is told in the result, from which it learns. What a program did
 * wrong, a sandbox that is gone and a daemon that does not answer are errors. Aborting a
 * call kills what the tool runs.
 */
export class Tools {
  readonly #box: Box;

  /** @internal */
  constructor(box: Box) {
    this.#box = box;
  }

  /** What the tools are, as a model's API takes it. */
  schemas<F extends SchemaFormat>(format: F, choice?: ToolChoice): ReturnType<typeof toolSchemas<F>> {
    return toolSchemas(format, choice);
  }

  /** Carries out what a model asked for, with its arguments as an object or as the JSON of one. An unknown tool is an error. */
  call<N extends ToolName>(name: N, args: ToolArguments[N], options?: CallOptions): Promise<ToolResult<ToolData[N]>>;
  call(name: string, args: unknown, options?: CallOptions): Promise<ToolResult>;
  async call(name: string, args: unknown, options: CallOptions = {}): Promise<ToolResult> {
    if (typeof name !== "string" || name === "") {
      throw new InvalidError("call tool: the name of a tool is a string that is not empty", { hint: "pass the name that the model said" });
    }
    let json = args;
    if (typeof args === "string") {
      try {
        json = JSON.parse(args);
      } catch {
        return malformed(name); // by the model, which can do better
      }
    }
    if (json === undefined || typeof json === "function" || typeof json === "symbol") {
      throw new InvalidError(`call tool ${name}: the arguments are ${typeof json}`, { hint: "pass an object, or the JSON of one" });
    }
    const call = this.#box.call("call tool", "POST", `/tools/${segment(name)}`, { json, signal: options.signal });
    return resultOf(call.op, await this.#box.json(call));
  }

  /** Runs a line with sh. */
  shell(args: ShellArguments, options?: CallOptions): Promise<ToolResult<ShellData>> {
    return this.#do("shell", args, options);
  }

  /** Runs a Python program with python3. */
  runPython(args: RunPythonArguments, options?: CallOptions): Promise<ToolResult<RunPythonData>> {
    return this.#do("run_python", args, options);
  }

  /** Returns a file, or some lines of it. */
  readFile(args: ReadFileArguments, options?: CallOptions): Promise<ToolResult<ReadFileData>> {
    return this.#do("read_file", args, options);
  }

  /** Replaces a file, or makes it. */
  writeFile(args: WriteFileArguments, options?: CallOptions): Promise<ToolResult<WriteFileData>> {
    return this.#do("write_file", args, options);
  }

  /** Lists what one directory holds. */
  listFiles(args: ListFilesArguments = {}, options?: CallOptions): Promise<ToolResult<ListFilesData>> {
    return this.#do("list_files", args, options);
  }

  /** Replaces lines of a file. */
  patchFile(args: PatchFileArguments, options?: CallOptions): Promise<ToolResult<PatchFileData>> {
    return this.#do("patch_file", args, options);
  }

  /** Replaces a text of a file that is there exactly once. */
  editFile(args: EditFileArguments, options?: CallOptions): Promise<ToolResult<EditFileData>> {
    return this.#do("edit_file", args, options);
  }

  /** Searches the lines of files. */
  grep(args: GrepArguments, options?: CallOptions): Promise<ToolResult<GrepData>> {
    return this.#do("grep", args, options);
  }

  /** Finds files by their path. */
  glob(args: GlobArguments, options?: CallOptions): Promise<ToolResult<GlobData>> {
    return this.#do("glob", args, options);
  }

  async #do<N extends ToolName>(name: N, args: ToolArguments[N], options?: CallOptions): Promise<ToolResult<ToolData[N]>> {
    if (typeof args !== "object" || args === null) {
      throw new InvalidError(`${name}: the arguments are not an object`, { hint: "pass { name: value }" });
    }
    return this.call(name, args, options);
  }
}

function resultOf(op: string, reply: unknown): ToolResult {
  const { text, is_error: isError, data } = (reply ?? {}) as { text?: unknown; is_error?: unknown; data?: unknown };
  if (typeof text !== "string" || typeof isError !== "boolean") {
    throw broken(op, new Error("it is not the result of a tool"));
  }
  return { text, isError, data };
}

function malformed(name: string): ToolResult {
  const failure = { code: "invalid", message: `${name}: the arguments are not JSON`, hint: "give them as a JSON object" };
  return { text: `error: ${failure.message}\nhint: ${failure.hint}`, isError: true, data: failure };
}
