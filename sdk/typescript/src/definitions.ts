import { definitions, type ToolArguments } from "./_generated/tools.js";
import { checkOptions, texts } from "./check.js";
import { InvalidError } from "./errors.js";

/** What the tools are called. */
export type ToolName = keyof ToolArguments;

/** A schema of JSON, as `type`, `properties` and the like. */
export type JSONSchema = Record<string, unknown>;

/** One tool, for those who make a form of their own. */
export interface ToolDefinition {
  name: ToolName;
  /** For people. */
  title: string;
  /** For the model. */
  description: string;
  /** It changes nothing. */
  readOnly: boolean;
  /** The same call again does nothing more. */
  idempotent: boolean;
  /** Of the arguments, an object. */
  parameters: JSONSchema;
  /** The same as OpenAI's strict mode wants it: all are required, and those that may be left out may be null. */
  strictParameters: JSONSchema;
  /** Of the data of a result that is no error. */
  result: JSONSchema;
}

/** The form that is wanted: `tools` of Chat Completions, of the Responses API, of the Messages API, or what an MCP server lists. */
export type SchemaFormat = "openai" | "openai-responses" | "anthropic" | "mcp";

// These are types, not interfaces, so that they fit where an API's own package wants a Record.

/** An element of `tools` for Chat Completions. */
export type OpenAITool = {
  type: "function";
  function: { name: ToolName; description: string; parameters: JSONSchema; strict: true };
};

/** An element of `tools` for the Responses API. */
export type OpenAIResponsesTool = { type: "function"; name: ToolName; description: string; parameters: JSONSchema; strict: true };

/** An element of `tools` for the Messages API. */
export type AnthropicTool = { name: ToolName; description: string; input_schema: JSONSchema & { type: "object" } };

/** A tool as an MCP server lists it. */
export type MCPTool = {
  name: ToolName;
  title: string;
  description: string;
  inputSchema: JSONSchema & { type: "object" };
  outputSchema: JSONSchema & { type: "object" };
  annotations: { readOnlyHint: boolean; idempotentHint: boolean; destructiveHint: boolean };
};

interface Forms {
  openai: OpenAITool;
  "openai-responses": OpenAIResponsesTool;
  anthropic: AnthropicTool;
  mcp: MCPTool;
}

/** Which of the tools. */
export interface ToolChoice<N extends ToolName = ToolName> {
  /** Default: all. */
  only?: readonly N[] | undefined;
}

/** What the tools are, in the order in which they are shown. */
export function toolDefinitions(choice: ToolChoice = {}): ToolDefinition[] {
  checkOptions("tools", choice, { only: texts });
  const { only } = choice;
  const unknown = only?.find((name) => !definitions.some((tool) => tool.name === name));
  if (unknown !== undefined) {
    throw new InvalidError(`tools: there is no tool ${JSON.stringify(unknown)}`, { hint: `use some of ${definitions.map((tool) => tool.name).join(", ")}` });
  }
  // Copies: what a program changes in its own is not what others get.
  return structuredClone(definitions.filter((tool) => only?.includes(tool.name) ?? true));
}

const forms: { [F in SchemaFormat]: (tool: ToolDefinition) => Forms[F] } = {
  openai: ({ name, description, strictParameters: parameters }) => ({ type: "function", function: { name, description, parameters, strict: true } }),
  "openai-responses": ({ name, description, strictParameters: parameters }) => ({ type: "function", name, description, parameters, strict: true }),
  anthropic: ({ name, description, parameters }) => ({ name, description, input_schema: { ...parameters, type: "object" } }),
  mcp: ({ name, title, description, parameters, result, readOnly, idempotent }) => ({
    name, title, description, inputSchema: { ...parameters, type: "object" }, outputSchema: { ...result, type: "object" },
    annotations: { readOnlyHint: readOnly, idempotentHint: idempotent, destructiveHint: !readOnly },
  }),
};

/** What the tools are, as a model's API takes it. No sandbox is needed for that. */
export function toolSchemas<F extends SchemaFormat>(format: F, choice: ToolChoice = {}): Forms[F][] {
  if (!Object.hasOwn(forms, format)) {
    throw new InvalidError(`tools: there is no format ${JSON.stringify(format)}`, { hint: `use ${Object.keys(forms).join(", ")}` });
  }
  return toolDefinitions(choice).map((tool) => forms[format](tool));
}
