// Hosts an agent, and keeps its jobs through dropped connections.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { credentials, Metadata, status } from "@grpc/grpc-js";
import { AgentHostServiceClient, Report, ServeRequest } from "./gen/arcp/v1/agent_host_service.js";
import type { AssignmentRef, DeepPartial, ServeResponse } from "./gen/arcp/v1/agent_host_service.js";

/** One assignment, with the reports the runtime has not acked yet. */
export type Job = { ref: AssignmentRef; seq: number; unacked: Report[]; stopped: boolean };
/** Returns the last report, which ends the job. */
export type Agent = (job: Job, inputJson: string) => Promise<DeepPartial<Report>["report"]>;
type Say = (message: DeepPartial<ServeRequest>["message"]) => unknown;

const { ARCPD_SERVER = "127.0.0.1:7777", ARCPD_TOKEN } = process.env;
const hostInstanceId = randomUUID(); // of this process: after a reconnect its jobs are its own again
const jobs = new Map<string, Job>(); // by lease token
let connected: Say | undefined; // none until registered

/** Numbers a report and keeps it until it is acked: a broken connection loses none. */
export function report(job: Job, report: DeepPartial<Report>["report"]) {
  const numbered = Report.create({ seq: ++job.seq, report });
  job.unacked.push(numbered);
  connected?.({ $case: "reports", value: { ref: job.ref, reports: [numbered] } });
}

export async function host(name: string, version: string, agent: Agent) {
  const client = new AgentHostServiceClient(ARCPD_SERVER, credentials.createInsecure(), { "grpc.keepalive_time_ms": 20_000 });
  for (;;) {
    await serve(client, { name, version }, agent).catch((error) => {
      if ([status.UNAUTHENTICATED, status.PERMISSION_DENIED, status.INVALID_ARGUMENT].includes(error.code)) throw error;
      console.error(`dialing again: ${error.message}`);
    });
    await sleep(Math.random() * 1000);
  }
}

/** One connection, from its register to its end. */
async function serve(client: AgentHostServiceClient, hosted: { name: string; version: string }, agent: Agent) {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${ARCPD_TOKEN}`);
  const stream = client.serve(metadata);
  const say: Say = (message) => stream.write(ServeRequest.create({ message }));
  const resume = [...jobs.values()].map(({ ref }) => ({ ref }));
  const register = { hostName: "typescript-example", hostInstanceId, maxInFlight: 16, agents: [hosted], resume };
  say({ $case: "register", value: register });
  let heartbeat: NodeJS.Timeout | undefined;
  try {
    for await (const { message } of stream as AsyncIterable<ServeResponse>) {
      if (message?.$case === "registered") {
        const interval = 1000 * (message.value.heartbeatInterval?.seconds ?? 10);
        heartbeat = setInterval(() => say({ $case: "heartbeat", value: {} }), interval);
      }
      receive(say, message, agent);
    }
  } finally {
    connected = undefined;
    clearInterval(heartbeat);
  }
}

function receive(say: Say, message: ServeResponse["message"], agent: Agent) {
  switch (message?.$case) {
    case "registered":
      message.value.drop.forEach(drop);
      for (const { ref, ackedSeq, cancelled } of message.value.keep) {
        forget(ref, ackedSeq);
        const reports = jobs.get(ref!.leaseToken)?.unacked;
        if (reports?.length) say({ $case: "reports", value: { ref, reports } });
        if (cancelled) stop(ref);
      }
      connected = say;
      break;
    case "assign": {
      const job = { ref: message.value.ref!, seq: 0, unacked: [], stopped: false };
      jobs.set(job.ref.leaseToken, job);
      say({ $case: "accept", value: { ref: job.ref } });
      const failed = (error: Error) => {
        const failure = { code: "INVALID_REQUEST", message: error.message };
        return { $case: "complete" as const, value: { outcome: { $case: "failure" as const, value: failure } } };
      };
      agent(job, message.value.inputJson).catch(failed).then((last) => report(job, last));
      break;
    }
    case "ack":
      return forget(message.value.ref, message.value.seq);
    case "cancel":
      return stop(message.value.ref);
    case "revoked":
      return drop(message.value.ref);
    case "rejected":
      console.error("rejected", message.value);
  }
}

/** Those reports are durable; after the last one the job is done with. */
function forget(ref: AssignmentRef | undefined, seq: number) {
  const job = jobs.get(ref!.leaseToken);
  if (job?.unacked.some(({ seq: of, report }) => of <= seq && report?.$case === "complete")) drop(ref);
  if (job) job.unacked = job.unacked.filter((report) => report.seq > seq);
}

function stop(ref: AssignmentRef | undefined) {
  const job = jobs.get(ref!.leaseToken);
  if (job) job.stopped = true;
}

function drop(ref: AssignmentRef | undefined) {
  stop(ref);
  jobs.delete(ref!.leaseToken);
}
