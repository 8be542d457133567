/**
 * The tools for OpenAI's Agents SDK, package `@openai/agents`.
 *
 * @packageDocumentation
 */
import { tool, type FunctionTool } from "@openai/agents";

import { toolDefinitions, type ToolChoice } from "./definitions.js";
import type { Sandbox } from "./sandbox.js";

/** Parameters as the package types them. */
type Parameters = { type: "object"; properties: Record<string, never>; required: string[]; additionalProperties: false };

/**
 * Makes tools that work in a sandbox, for the `tools` of an agent. What a model did wrong is
 * told to it; a sandbox that is gone, or a daemon that does not answer, ends the run with an
 * error. Aborting the run kills what a tool runs.
 */
export function coveTools(sandbox: Sandbox, choice: ToolChoice = {}): FunctionTool[] {
  return toolDefinitions(choice).map(({ name, description, strictParameters }) => tool({
    name,
    description,
    parameters: strictParameters as Parameters,
    strict: true,
    execute: async (args, _, details) => (await sandbox.tools.call(name, args, { signal: details?.signal })).text,
    errorFunction: null,
  }) as unknown as FunctionTool);
}
