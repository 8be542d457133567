/**
 * Sandboxes for AI agents: create one, run commands in it, move files, reach its ports,
 * throw it away.
 *
 * @packageDocumentation
 */
export { Cove, Secrets, type ConnectOptions, type CreateOptions, type ListOptions } from "./client.js";
export { Sandbox } from "./sandbox.js";
export { Commands, type Command, type RunOptions } from "./commands.js";
export { CommandHandle, OutputReader, type ProcessInfo } from "./handle.js";
export { CommandExitError, CommandResult, type OutputChunk } from "./output.js";
export type { OutputCallback } from "./collector.js";
export { Files, WatchHandle, type FileEvent, type FileInfo, type FileOptions, type WatchOptions, type WriteEntry, type WriteOptions } from "./files.js";
export { Pty, PtyHandle, type AttachOptions, type PtyOptions, type TerminalSize } from "./pty.js";
export { RunCommandResult, run, runParallel, type Change, type RunRequest, type RunResult } from "./run.js";
export { Tools, type ToolFailure, type ToolResult } from "./tools.js";
export {
  toolDefinitions, toolSchemas, type AnthropicTool, type JSONSchema, type MCPTool, type OpenAIResponsesTool, type OpenAITool, type SchemaFormat, type ToolChoice,
  type ToolDefinition, type ToolName,
} from "./definitions.js";
export type {
  EditFileArguments, EditFileData, GlobArguments, GlobData, GrepArguments, GrepData, ListFilesArguments, ListFilesData, PatchFileArguments,
  PatchFileData, ReadFileArguments, ReadFileData, RunPythonArguments, RunPythonData, ShellArguments, ShellData, ToolArguments, ToolData,
  WriteFileArguments, WriteFileData,
} from "./_generated/tools.js";
export { SandboxNetwork } from "./network.js";
export type { Forward } from "./forward.js";
export type { Input } from "./input.js";
export type { Exit, StreamName } from "./stream.js";
export type { ConnectionOptions } from "./transport.js";
export {
  ConflictError, CoveError, ExhaustedError, ForbiddenError, GoneError, InternalError, InvalidError, NoSpaceError, NotFoundError,
  NotSupportedError, TimeoutError, TooLargeError, UnauthenticatedError, UnavailableError, type ErrorCode, type ErrorDetails,
} from "./errors.js";
export type * from "./types.js";
