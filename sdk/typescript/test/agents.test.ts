import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { AIMessage, ToolMessage } from "@langchain/core/messages";
import { Agent, Runner, setTracingDisabled } from "@openai/agents";
import { assistantMessage, functionCall, modelResponder, ScriptedModel as OpenAIModel } from "@openai/agents/testing";
import { generateText, stepCountIs } from "ai";
import { MockLanguageModelV3 } from "ai/test";

import { GoneError, type Sandbox } from "@cove-sandbox/sdk";
import * as ai from "@cove-sandbox/sdk/ai";
import * as langchain from "@cove-sandbox/sdk/langchain";
import * as openai from "@cove-sandbox/sdk/openai-agents";

import { breakProject, checkRepaired, ScriptedModel } from "./project.js";
import { create } from "./world.js";

setTracingDisabled(true); // which would tell a server of runs

let sandbox: Sandbox;
beforeEach(async () => {
  sandbox = await create();
  await breakProject(sandbox);
});
afterEach(() => sandbox.kill());

type Generated = Awaited<ReturnType<MockLanguageModelV3["doGenerate"]>>;
const usage = { inputTokens: { total: 1, noCache: 1, cacheRead: 0, cacheWrite: 0 }, outputTokens: { total: 1, text: 1, reasoning: 0 } };
const says = (content: Generated["content"], reason: "tool-calls" | "stop"): Generated => ({ content, finishReason: { unified: reason, raw: reason }, usage, warnings: [] });

test("the AI SDK repairs a project", async () => {
  const script = new ScriptedModel();
  const outputs: string[] = [];
  const model = new MockLanguageModelV3({
    doGenerate: async ({ prompt, tools = [] }) => {
      assert.equal(tools.length, 9);
      const last = prompt.at(-1);
      const part = last?.role === "tool" ? last.content[0] : undefined;
      const output = part?.type === "tool-result" ? part.output : undefined;
      outputs.push(output?.type ?? "none");
      const next = script.next(output?.type === "text" || output?.type === "error-text" ? output.value : undefined);
      return next === undefined
        ? says([{ type: "text", text: "It adds now." }], "stop")
        : says([{ type: "tool-call", toolCallId: next.id, toolName: next.tool, input: JSON.stringify(next.args) }], "tool-calls");
    },
  });
  const result = await generateText({ model, tools: ai.coveTools(sandbox), stopWhen: stepCountIs(20), prompt: "Repair the project." });
  assert.equal(result.text, "It adds now.");
  assert.ok(script.done);
  assert.deepEqual(outputs, ["none", "text", "text", "text", "text", "error-text", "text", "text"]);
  const [shell] = result.steps.flatMap((step) => step.toolResults).filter((one) => one.toolName === "shell" && !one.dynamic);
  assert.ok(shell?.toolName === "shell" && "exit_code" in shell.output.data);
  assert.equal(shell.output.data.exit_code, 1);
  await checkRepaired(sandbox);
});

test("the AI SDK's abort kills what a tool runs", async () => {
  const stop = new AbortController();
  const { shell } = ai.coveTools(sandbox, { only: ["shell"] });
  assert.ok(shell.execute);
  const running = shell.execute({ command: "sleep 1000" }, { toolCallId: "1", messages: [], abortSignal: stop.signal });
  stop.abort(new Error("enough"));
  await assert.rejects(async () => await running, /enough/);
});

test("the OpenAI Agents SDK repairs a project", async () => {
  const script = new ScriptedModel();
  const model = new OpenAIModel(Array.from({ length: ScriptedModel.calls + 1 }, () => modelResponder(({ request }) => {
    assert.equal(request.tools.length, 9);
    const last = typeof request.input === "string" ? undefined : request.input.at(-1);
    const output = last?.type === "function_call_result" ? last.output : undefined;
    const text = typeof output === "object" && !Array.isArray(output) && output.type === "text" ? output.text : output;
    const next = script.next(typeof text === "string" ? text : undefined);
    return [next === undefined ? assistantMessage("It adds now.") : functionCall(next.tool, next.args, { callId: next.id })];
  })));
  const agent = new Agent({ name: "engineer", model, tools: openai.coveTools(sandbox) });
  const result = await new Runner({ tracingDisabled: true }).run(agent, "Repair the project.", { maxTurns: 20 });
  assert.equal(result.finalOutput, "It adds now.");
  assert.ok(script.done);
  await checkRepaired(sandbox);
});

test("a sandbox that is gone ends a run of the OpenAI Agents SDK", async () => {
  const model = new OpenAIModel([[functionCall("shell", { command: "true" }, { callId: "1" })]]);
  const agent = new Agent({ name: "engineer", model, tools: openai.coveTools(sandbox, { only: ["shell"] }) });
  await sandbox.kill();
  await assert.rejects(new Runner({ tracingDisabled: true }).run(agent, "Go."), (err) => err instanceof GoneError || (err as { error?: unknown }).error instanceof GoneError);
});

test("LangChain's tools repair a project", async () => {
  const script = new ScriptedModel();
  const tools = new Map(langchain.coveTools(sandbox).map((tool) => [tool.name, tool]));
  assert.equal(tools.size, 9);
  let told: ToolMessage | undefined;
  for (;;) {
    const next = script.next(typeof told?.content === "string" ? told.content : undefined);
    if (next === undefined) {
      break;
    }
    // As an agent does with what a model said.
    const message = new AIMessage({ content: "", tool_calls: [{ type: "tool_call", id: next.id, name: next.tool, args: next.args }] });
    for (const call of message.tool_calls ?? []) {
      told = await tools.get(call.name)?.invoke({ ...call, type: "tool_call" }) as ToolMessage;
      assert.equal(told.tool_call_id, next.id);
    }
  }
  assert.equal((told?.artifact as { data: { exit_code: number } }).data.exit_code, 0);
  await assert.rejects(tools.get("shell")!.invoke({ command: 7 } as never), /did not match/);
  await checkRepaired(sandbox);
});
