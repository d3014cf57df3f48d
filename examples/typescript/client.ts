// client AGENT FILE [STEP_MS]: submits a text, follows the job through dropped connections, prints its result.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { credentials } from "@grpc/grpc-js";
import type { DeepPartial, Envelope, Resume } from "./gen/arcp/v1/envelope.js";
import { RuntimeServiceClient, SessionRequest, type SessionResponse } from "./gen/arcp/v1/runtime_service.js";

const { ARCPD_SERVER = "127.0.0.1:7777", ARCPD_TOKEN } = process.env;
const [agent, file, stepMs] = process.argv.slice(2);
const inputJson = JSON.stringify({ text: readFileSync(file, "utf8"), step_ms: Number(stepMs ?? 0) });
const submit = { agent, inputJson, idempotencyKey: randomUUID() }; // sent twice, it is one job
const client = new RuntimeServiceClient(ARCPD_SERVER, credentials.createInsecure(), { "grpc.keepalive_time_ms": 20_000 });

let resume: Resume | undefined; // set by each welcome: the session outlives its connection
let accepted = false;
let result = "";

function end(code: number, text: string): never {
  (code ? console.error : console.log)(text);
  process.exit(code);
}

/** Until the job or the connection ends. */
async function follow() {
  const stream = client.session();
  const send = (sessionId: string, payload: DeepPartial<Envelope>["payload"]) =>
    stream.write(SessionRequest.create({ envelope: { arcp: "1.1", id: randomUUID(), sessionId, payload } }));
  const features = ["progress", "result_chunk"];
  const hello = { clientName: "typescript-example", clientVersion: "1", authScheme: "bearer", authToken: ARCPD_TOKEN, features, resume };
  send("", { $case: "sessionHello", value: hello });
  for await (const { envelopes } of stream as AsyncIterable<SessionResponse>) {
    for (const { sessionId, eventSeq, payload } of envelopes) {
      if (resume && eventSeq) resume.lastEventSeq = eventSeq;
      switch (payload?.$case) {
        case "sessionWelcome":
          resume = { sessionId, resumeToken: payload.value.resumeToken, lastEventSeq: resume?.lastEventSeq ?? 0 };
          if (!accepted) send(sessionId, { $case: "jobSubmit", value: submit });
          break;
        case "jobAccepted":
          accepted = true;
          break;
        case "jobEvent": {
          const body = payload.value.body;
          if (body?.$case === "progress") console.error(`progress ${body.value.current}/${body.value.total}`);
          if (body?.$case === "resultChunk") result += body.value.data; // text, as the agent sent it
          break;
        }
        case "jobResult":
          return end(0, result + payload.value.resultJson); // one of the two is empty
        case "jobError":
        case "sessionError":
          return end(1, `${payload.value.code}: ${payload.value.message}`);
      }
    }
  }
}

for (;;) {
  await follow().catch((error) => console.error(`dialing again: ${error.message}`));
  await sleep(500);
}
