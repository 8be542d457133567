import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, test } from "node:test";

import { GoneError, InvalidError, NotFoundError, Sandbox, toolDefinitions, toolSchemas, UnavailableError, type ToolResult } from "@cove-sandbox/sdk";

import { besides, create, Impostor, program, runtime } from "./world.js";

let sandbox: Sandbox;
before(async () => {
  sandbox = await create();
});
after(() => sandbox.kill());

/** The data of a result that is no error. */
function good<D>(result: ToolResult<D>): D {
  assert.ok(!result.isError, result.text);
  return result.data;
}

test("each tool is a function that returns text and fields", async () => {
  const { tools } = sandbox;
  assert.equal(good(await tools.writeFile({ file_path: "src/a.txt", content: "one\ntwo\n", mode: "0600" })).bytes, 8);
  assert.equal(good(await tools.readFile({ filename: "src/a.txt", start_line: 2 })).content, "two\n");
  assert.deepEqual(good(await tools.listFiles({ directory: "src" })).entries.map((entry) => [entry.name, entry.mode]), [["a.txt", "0600"]]);
  assert.equal(good(await tools.patchFile({ file_path: "src/a.txt", from_line: 2, to_line: 2, content: "zwei" })).lines, 2);
  assert.equal(good(await tools.editFile({ file_path: "src/a.txt", old_string: "one", new_string: "eins" })).replacements, 1);
  assert.deepEqual(good(await tools.grep({ pattern: "^z" })).matches, [{ path: "src/a.txt", line: 2, text: "zwei" }]);
  assert.deepEqual(good(await tools.glob({ pattern: "**/*.txt" })).paths, ["src/a.txt"]);
  assert.equal(good(await tools.runPython({ code: "print(6*7)" })).stdout, "42\n");
  const shell = await tools.shell({ command: "cat src/a.txt; exit 3", cwd: null });
  assert.deepEqual([good(shell).stdout, good(shell).exit_code], ["eins\nzwei\n", 3]);
  assert.match(shell.text, /eins\nzwei/);
  assert.ok(Array.isArray(good(await tools.listFiles()).entries));
});

test("what a tool could not do is a result, and so is a time that is over", async () => {
  const none = await sandbox.tools.readFile({ filename: "none" });
  assert.ok(none.isError && "code" in none.data);
  assert.deepEqual([none.data.code, typeof none.data.hint], ["not_found", "string"]);
  assert.match(none.text, /^error: .*none/);
  const late = await sandbox.tools.shell({ command: "echo begun; sleep 1000", timeout: 0.5 });
  assert.ok(late.isError && "timed_out" in late.data);
  assert.deepEqual([late.data.timed_out, late.data.stdout], [true, "begun\n"]);
  assert.equal((await sandbox.tools.shell({ command: 7 as unknown as string })).isError, true);
  await assert.rejects(sandbox.tools.shell(undefined as never), InvalidError);
});

test("what a model asks for is carried out, and what it does wrong is told to it", async () => {
  const { tools } = sandbox;
  assert.equal((await tools.call("shell", '{"command": "echo hi", "timeout": null}')).text, "hi");
  assert.equal((await tools.call("shell", { command: "echo hi" })).text, "hi");
  for (const args of ["{", "", "[]", "null", '{"command": 7}', "{}", [], null, 7, { command: "true", color: "red" }]) {
    const result = await tools.call("shell" as string, args);
    assert.equal(result.isError, true, JSON.stringify(args));
    assert.match(result.text, /^error: /, JSON.stringify(args));
    assert.equal((result.data as { code: string }).code, "invalid", JSON.stringify(args));
  }
});

test("what a program does wrong is an error", async () => {
  const { tools } = sandbox;
  await assert.rejects(tools.call("sudo", {}), (err) => err instanceof NotFoundError && /run_python/.test(err.message));
  await assert.rejects(tools.call("../exec", {}), NotFoundError);
  await assert.rejects(tools.call("", {}), InvalidError);
  await assert.rejects(tools.call("shell" as string, undefined), InvalidError);
  const killed = await create();
  await killed.kill();
  await assert.rejects(killed.tools.shell({ command: "true" }), GoneError);
});

test("aborting a call kills what it runs", async () => {
  const stop = new AbortController();
  const call = sandbox.tools.shell({ command: "echo $$ >pid; exec sleep 1000" }, { signal: stop.signal });
  while (!(await sandbox.files.exists("pid")) || (await sandbox.files.read("pid")) === "");
  stop.abort(new Error("enough"));
  await assert.rejects(call, /enough/);
  const gone = await sandbox.commands.run('for i in $(seq 200); do kill -0 "$(cat pid)" 2>/dev/null || exit 0; sleep 0.05; done; exit 1');
  assert.equal(gone.exitCode, 0);
});

test("the schemas are those of the program cove", () => {
  for (const format of ["openai", "openai-responses", "anthropic", "mcp"] as const) {
    const want: unknown = JSON.parse(execFileSync(program(), ["tools", "--format", format], { encoding: "utf8" }));
    assert.deepEqual(toolSchemas(format), want, format);
    assert.deepEqual(sandbox.tools.schemas(format), want);
  }
  assert.deepEqual(toolSchemas("anthropic", { only: ["shell"] }).map((tool) => tool.name), ["shell"]);
  assert.throws(() => toolSchemas("xml" as "openai"), InvalidError);
  assert.throws(() => toolSchemas("openai", { only: ["sudo" as "shell"] }), InvalidError);
  const [mine] = toolDefinitions();
  assert.ok(mine);
  mine.parameters["properties"] = {};
  assert.notDeepEqual(toolDefinitions()[0]?.parameters["properties"], {});
});

test("a reply that is no result of a tool is an error", async () => {
  for (const reply of ["", "null", "[]", '{"text": 7, "is_error": false, "data": {}}', "nonsense"]) {
    const { url } = new Impostor(besides((_, response) => response.end(reply)));
    const lied = await Sandbox.connect("abc", { url });
    await assert.rejects(lied.tools.call("shell", { command: "true" }), UnavailableError, reply);
  }
});

test("a result of a newer daemon may have more, and there may be more tools", async () => {
  const { url } = new Impostor(besides((request, response) => {
    assert.equal(request.url, "/v1/sandboxes/abc/tools/teleport");
    response.end('{"text": "there", "is_error": false, "data": {"new_field": 1}, "new": true}');
  }));
  const result = await (await Sandbox.connect("abc", { url })).tools.call("teleport", {});
  assert.deepEqual(result, { text: "there", isError: false, data: { new_field: 1 } });
});

test("tools work in a sandbox that was connected to, too", async () => {
  assert.equal(sandbox.info.runtime, runtime);
  assert.equal((await (await Sandbox.connect(sandbox.id)).tools.shell({ command: "echo hi" })).text, "hi");
});
