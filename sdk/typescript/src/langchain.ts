/**
 * The tools for LangChain, package `@langchain/core`.
 *
 * @packageDocumentation
 */
import { DynamicStructuredTool } from "@langchain/core/tools";

import { toolDefinitions, type ToolChoice } from "./definitions.js";
import type { Sandbox } from "./sandbox.js";
import type { ToolResult } from "./tools.js";

/**
 * Makes tools that work in a sandbox, for `bindTools` and agents. The content of a message
 * is the text of a result, its artifact all of it. Aborting the run kills what a tool runs.
 */
export function coveTools(sandbox: Sandbox, choice: ToolChoice = {}): DynamicStructuredTool[] {
  return toolDefinitions(choice).map(({ name, description, parameters }) => new DynamicStructuredTool({
    name,
    description,
    schema: parameters,
    verboseParsingErrors: true, // which the model is told
    responseFormat: "content_and_artifact",
    func: async (args, _, config): Promise<[string, ToolResult]> => {
      const result = await sandbox.tools.call(name, args, { signal: config?.signal });
      return [result.text, result];
    },
  }));
}
