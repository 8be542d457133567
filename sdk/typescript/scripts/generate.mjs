// Writes src/_generated/tools.ts from api/tools.json; with --check it only says whether that would change it.
import { readFileSync, writeFileSync } from "node:fs";

const source = new URL("../../../api/tools.json", import.meta.url);
const target = new URL("../src/_generated/tools.ts", import.meta.url);

const definitions = JSON.parse(readFileSync(source, "utf8"));
const pascal = (name) => name.replace(/(?:^|_)([a-z])/g, (_, letter) => letter.toUpperCase());
const indent = (text) => text.replace(/^/gm, "  ");
const quoted = (text) => text.replaceAll("*/", "*\\/");

/** The type of a schema, of which these are the kinds that the tools use. */
function typeOf(schema) {
  switch (schema.type) {
    case "string":
    case "boolean":
      return schema.type;
    case "integer":
    case "number":
      return "number";
    case "array":
      return `${typeOf(schema.items)}[]`;
    case "object":
      return `{\n${fields(schema, false)}\n}`;
    default:
      throw new Error(`${source.pathname}: no type for ${JSON.stringify(schema)}`);
  }
}

function fields(schema, given) {
  return Object.entries(schema.properties).map(([name, property]) => {
    const needed = schema.required?.includes(name) ?? false;
    const comment = property.description === undefined ? "" : `/** ${quoted(property.description)} */\n`;
    const type = typeOf(property) + (given && !needed ? " | null | undefined" : "");
    return indent(`${comment}${name}${needed ? "" : "?"}: ${type};`);
  }).join("\n");
}

const types = definitions.map((tool) => [
  `/** Arguments of \`${tool.name}\`. */`,
  `export interface ${pascal(tool.name)}Arguments {\n${fields(tool.parameters, true)}\n}\n`,
  `/** What came of \`${tool.name}\`. */`,
  `export interface ${pascal(tool.name)}Data {\n${fields(tool.result, false)}\n}\n`,
].join("\n")).join("\n");

const index = (kind) => definitions.map((tool) => `  ${tool.name}: ${pascal(tool.name)}${kind};`).join("\n");

const named = definitions.map(({ read_only: readOnly, strict_parameters: strictParameters, ...rest }) => ({ ...rest, readOnly, strictParameters }));

const text = `// Generated from api/tools.json by scripts/generate.mjs. Not to be edited.
import type { ToolDefinition } from "../definitions.js";

${types}
/** Arguments by the name of the tool. */
export interface ToolArguments {
${index("Arguments")}
}

/** What comes of a call, by the name of the tool. */
export interface ToolData {
${index("Data")}
}

export const definitions: readonly ToolDefinition[] = ${JSON.stringify(named, null, 2)};
`;

if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== text) {
    console.error("src/_generated/tools.ts differs from api/tools.json; run npm run generate");
    process.exit(1);
  }
} else {
  writeFileSync(target, text);
}
