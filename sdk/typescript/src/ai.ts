/**
 * The tools for Vercel's AI SDK, package `ai` from version 6 on.
 *
 * @packageDocumentation
 */
import { jsonSchema, tool, type Tool } from "ai";

import type { ToolArguments, ToolData } from "./_generated/tools.js";
import { toolDefinitions, type ToolChoice, type ToolName } from "./definitions.js";
import type { Sandbox } from "./sandbox.js";
import type { ToolResult } from "./tools.js";

/** The tools by name, as `generateText`, `streamText` and agents take them. */
export type CoveTools<N extends ToolName = ToolName> = { [K in N]: Tool<ToolArguments[K], ToolResult<ToolData[K]>> };

/**
 * Makes tools that work in a sandbox. The model is told the text of a result, and whether it
 * is an error; a program finds all of it in the output. Aborting the generation kills what
 * a tool runs.
 */
export function coveTools<N extends ToolName = ToolName>(sandbox: Sandbox, choice: ToolChoice<N> = {}): CoveTools<N> {
  const entries = toolDefinitions(choice).map(({ name, title, description, parameters }) => [name, tool({
    title,
    description,
    inputSchema: jsonSchema<ToolArguments[ToolName]>(parameters),
    execute: (args, { abortSignal: signal }): Promise<ToolResult> => sandbox.tools.call(name, args, { signal }),
    toModelOutput: ({ output }) => ({ type: output.isError ? "error-text" : "text", value: output.text }),
  })]);
  return Object.fromEntries(entries) as CoveTools<N>;
}
