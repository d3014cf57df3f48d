// agent: word-count, the work alone; host.ts is what stands between it and the runtime.
import { setTimeout as sleep } from "node:timers/promises";
import type { DeepPartial, Report } from "./gen/arcp/v1/agent_host_service.js";
import type { JobEvent } from "./gen/arcp/v1/event.js";
import { host, type Job, report } from "./host.js";

const event = (body: DeepPartial<JobEvent>["body"]) => ({ $case: "event" as const, value: { body } });
const part = (text: string) => ({ $case: "resultPart" as const, value: { part: { $case: "text" as const, value: text } } });

async function wordCount(job: Job, inputJson: string): Promise<DeepPartial<Report>["report"]> {
  const { text, step_ms = 0 } = JSON.parse(inputJson);
  const lines: string[] = text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
  const step = 1 + Math.floor(lines.length / 20);
  let words = 0;
  for (let from = 0; from < lines.length; from += step) {
    const some = lines.slice(from, from + step);
    words += some.join("").match(/\S+/g)?.length ?? 0;
    report(job, event({ $case: "progress", value: { current: from + some.length, total: lines.length } }));
    await sleep(step_ms);
    if (job.stopped) return { $case: "complete", value: { outcome: { $case: "cancelled", value: {} } } };
  }
  const bytes = Buffer.byteLength(text);
  report(job, event({ $case: "toolCall", value: { tool: "measure", callId: "1", argsJson: "{}" } }));
  report(job, event({ $case: "toolResult", value: { callId: "1", resultJson: `${bytes}` } }));
  report(job, part(`{"lines": ${lines.length}`));
  report(job, part(`, "words": ${words}`));
  report(job, part(`, "bytes": ${bytes}}`));
  return { $case: "complete", value: { outcome: { $case: "parts", value: {} } } };
}

await host(process.env.ARCP_AGENT ?? "word-count", "1.0.0", wordCount);
