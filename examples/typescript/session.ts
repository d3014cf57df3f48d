// A job followed through dropped connections: its session outlives them.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { credentials } from "@grpc/grpc-js";
import type { DeepPartial, Envelope, JobSubmit, Resume } from "./gen/arcp/v1/envelope.js";
import { RuntimeServiceClient, SessionRequest, type SessionResponse } from "./gen/arcp/v1/runtime_service.js";

const features = ["progress", "result_chunk"];

/** What the runtime says of the job, each once and in order, to its end. */
export async function* follow(server: string, authToken: string, job: Partial<JobSubmit>) {
  const client = new RuntimeServiceClient(server, credentials.createInsecure(), { "grpc.keepalive_time_ms": 20_000 });
  const submit = { ...job, idempotencyKey: randomUUID() }; // sent twice, it is one job
  let resume: Resume | undefined;
  let accepted = false;
  for (;;) {
    const stream = client.session();
    const send = (sessionId: string, payload: DeepPartial<Envelope>["payload"]) =>
      stream.write(SessionRequest.create({ envelope: { arcp: "1.1", id: randomUUID(), sessionId, payload } }));
    const hello = { clientName: "typescript-example", clientVersion: "1", authScheme: "bearer", authToken, features, resume };
    send("", { $case: "sessionHello", value: hello });
    try {
      for await (const { envelopes } of stream as AsyncIterable<SessionResponse>) {
        for (const { sessionId, eventSeq, payload } of envelopes) {
          if (resume && eventSeq) resume.lastEventSeq = eventSeq;
          if (payload?.$case === "sessionWelcome") {
            resume = { sessionId, resumeToken: payload.value.resumeToken, lastEventSeq: resume?.lastEventSeq ?? 0 };
            if (!accepted) send(sessionId, { $case: "jobSubmit", value: submit });
          }
          if (payload?.$case === "jobAccepted") accepted = true;
          if (payload) yield payload;
          if (["jobResult", "jobError", "sessionError"].includes(payload?.$case ?? "")) return client.close();
        }
      }
    } catch (error) {
      console.error(`dialing again: ${(error as Error).message}`);
    }
    await sleep(500);
  }
}
