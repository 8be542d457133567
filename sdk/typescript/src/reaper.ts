/**
 * A program: removes the sandboxes of a process that has just ended, as the variable
 * COVE_REAP says. The variable and not an argument, which everybody could read.
 */
import { segment } from "./box.js";
import { Transport } from "./transport.js";

const work = JSON.parse(process.env["COVE_REAP"] ?? "{}") as { url?: string; key?: string; ids?: string[] };
if (work.url !== undefined) {
  const transport = new Transport({ url: work.url, apiKey: work.key });
  const signal = AbortSignal.timeout(10_000);
  const removals = (work.ids ?? []).map((id) =>
    transport.json({ op: "remove", method: "DELETE", path: `/v1/sandboxes/${segment(id)}`, signal }));
  await Promise.allSettled(removals); // nobody is left to be told
  transport.close();
}
