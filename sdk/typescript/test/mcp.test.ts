import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";

import { InvalidError, NotSupportedError, Sandbox, toolDefinitions, UnavailableError } from "@cove-sandbox/sdk";
import { mcpAddress, mcpServer } from "@cove-sandbox/sdk/mcp";

import { breakProject, checkRepaired, ScriptedModel } from "./project.js";
import { create, Daemon, program, runtime } from "./world.js";

/** Lets a client of the protocol do what a model says. */
async function repair(client: Client): Promise<void> {
  const { tools } = await client.listTools();
  const names = tools.map((tool) => tool.name);
  assert.ok(toolDefinitions().every((tool) => names.includes(tool.name)));
  const script = new ScriptedModel();
  let told: string | undefined;
  for (;;) {
    const next = script.next(told);
    if (next === undefined) {
      return;
    }
    const result = await client.callTool({ name: next.tool, arguments: next.args });
    const [content] = result.content as { type: string; text?: string }[];
    told = content?.text;
  }
}

async function connected(transport: Transport): Promise<Client> {
  const client = new Client({ name: "test", version: "1" });
  await client.connect(transport);
  return client;
}

test("the protocol's own client repairs a project by cove mcp", async () => {
  await using sandbox = await create();
  await breakProject(sandbox);
  const client = await connected(new StdioClientTransport({ ...mcpServer({ sandbox: sandbox.id }), stderr: "ignore" }));
  await repair(client);
  await client.close();
  await checkRepaired(sandbox);
});

test("without a sandbox of its own, a session by cove mcp makes one and removes it", async () => {
  const name = `ts-mcp-${process.pid}`;
  const server = mcpServer({ runtime, memory: "256m", name });
  const client = await connected(new StdioClientTransport({ ...server, stderr: "ignore" }));
  assert.equal(((await client.callTool({ name: "shell", arguments: { command: "echo hi" } })).content as { text: string }[])[0]?.text, "hi");
  await client.close();
  const made = await Sandbox.connect(name); // one with a name stays
  assert.equal(made.info.spec.limits?.memory, 256 << 20);
  await made.kill();
});

test("the protocol's own client repairs a project by /mcp, with a key", async () => {
  await using daemon = new Daemon(["--listen", "127.0.0.1:0"]);
  await daemon.start();
  const url = await daemon.address();
  const env = { ...process.env, COVE_URL: daemon.url };
  const apiKey = /cove_[\w-]+/.exec(execFileSync(program(), ["key", "create", "mcp"], { env, encoding: "utf8" }))?.[0] ?? "";
  const sandbox = await Sandbox.create({ url, apiKey, runtime });
  await breakProject(sandbox);
  const server = mcpAddress({ url, apiKey, sandbox: sandbox.id });
  const transport = new StreamableHTTPClientTransport(new URL(server.url), { requestInit: { headers: server.headers } });
  const client = await connected(transport);
  await repair(client);
  await transport.terminateSession();
  await client.close();
  await checkRepaired(sandbox);
  await sandbox.kill();
  await assert.rejects(connected(new StreamableHTTPClientTransport(new URL(server.url))), /401|key/);
});

test("a server is told as clients want it", () => {
  const given = mcpServer({ bin: program(), image: "python:3.12", allow: ["pip", "api.github.com"], url: "https://cove.example.org", apiKey: "k", all: true });
  assert.deepEqual([given.type, given.command], ["stdio", program()]);
  assert.deepEqual(given.args, ["mcp", "--image=python:3.12", "--allow=pip,api.github.com", "--all=true"]);
  assert.deepEqual([given.env["COVE_URL"], given.env["COVE_API_KEY"]], ["https://cove.example.org", "k"]);
  assert.deepEqual(mcpAddress({ url: "https://cove.example.org/below/", apiKey: "k", image: "a b", allow: ["pip"] }), {
    type: "http", url: "https://cove.example.org/below/mcp?image=a+b&allow=pip", headers: { Authorization: "Bearer k" },
  });
  assert.throws(() => mcpAddress({ url: "unix:///run/cove.sock" }), NotSupportedError);
  assert.throws(() => mcpServer({ ca: "x" }), NotSupportedError);
  assert.throws(() => mcpServer({ bin: "/nonexistent" }), UnavailableError);
  assert.throws(() => mcpServer({ allow: "pip" as unknown as string[] }), InvalidError);
  assert.throws(() => mcpServer({ image: 7 as unknown as string }), InvalidError);
});
