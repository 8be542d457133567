import assert from "node:assert/strict";

import type { Sandbox } from "@cove-sandbox/sdk";

const files = {
  "calc.py": "def add(a, b):\n    return a - b\n",
  "test_calc.py": "import unittest\n\nfrom calc import add\n\n\nclass Test(unittest.TestCase):\n    def test_add(self):\n        self.assertEqual(add(2, 3), 5)\n",
};
// -B: what Python compiled a second ago is not taken for the repaired file, which is as long.
const runTests = "python3 -B -m unittest -q 2>&1";

/** Writes a project whose test fails. */
export async function breakProject(sandbox: Sandbox): Promise<void> {
  await sandbox.files.writeFiles(Object.entries(files).map(([path, data]) => ({ path, data })));
}

/** Checks, past all tools, that the project's tests pass, and that they are those that failed. */
export async function checkRepaired(sandbox: Sandbox): Promise<void> {
  assert.equal(await sandbox.files.read("test_calc.py"), files["test_calc.py"]);
  const result = await sandbox.commands.run(runTests);
  assert.match(result.stdout, /^OK$/m);
  assert.equal(result.exitCode, 0);
}

interface Step {
  tool: string;
  args: Record<string, unknown>;
  /** What the model must be told of it. */
  told: RegExp;
}

const steps: readonly Step[] = [
  { tool: "list_files", args: {}, told: /calc\.py/ },
  { tool: "shell", args: { command: runTests, timeout: 60 }, told: /AssertionError: -1 != 5/ },
  { tool: "grep", args: { pattern: "def add", glob: "*.py" }, told: /calc\.py:1:/ },
  { tool: "read_file", args: { filename: "calc.py" }, told: /return a - b/ },
  { tool: "edit_file", args: { file_path: "calc.py", old_string: "a * b", new_string: "a + b" }, told: /^error: .*calc\.py/ },
  { tool: "edit_file", args: { file_path: "calc.py", old_string: "a - b", new_string: "a + b" }, told: /once/ },
  { tool: "shell", args: { command: runTests }, told: /OK/ },
];

/** A model that knows what to do, and checks at each step what it is told. */
export class ScriptedModel {
  #at = 0;

  /** How many calls it makes. */
  static readonly calls = steps.length;

  /** What it says next: a call, or at the end nothing. `told` is the text of the last result. */
  next(told: string | undefined): { id: string; tool: string; args: Record<string, unknown> } | undefined {
    const last = steps[this.#at - 1];
    if (last !== undefined) {
      assert.match(told ?? "", last.told, `${last.tool} told the model ${JSON.stringify(told)}`);
    }
    const step = steps[this.#at++];
    return step && { id: `call-${this.#at}`, tool: step.tool, args: step.args };
  }

  /** Whether it said all that it had to. */
  get done(): boolean {
    return this.#at === steps.length + 1;
  }
}
