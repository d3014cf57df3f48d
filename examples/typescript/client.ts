// client AGENT FILE [STEP_MS]: submits a text, follows its job, prints the result.
import { readFileSync } from "node:fs";
import { follow } from "./session.js";

const { ARCPD_SERVER = "127.0.0.1:7777", ARCPD_TOKEN = "" } = process.env;
const [agent, file, stepMs] = process.argv.slice(2);
const inputJson = JSON.stringify({ text: readFileSync(file, "utf8"), step_ms: Number(stepMs ?? 0) });
let result = "";
for await (const message of follow(ARCPD_SERVER, ARCPD_TOKEN, { agent, inputJson })) {
  switch (message.$case) {
    case "jobEvent": {
      const body = message.value.body;
      if (body?.$case === "progress") console.error(`progress ${body.value.current}/${body.value.total}`);
      if (body?.$case === "resultChunk") result += body.value.data; // text, as the agent sent it
      break;
    }
    case "jobResult":
      console.log(result + message.value.resultJson); // one of the two is empty
      break;
    case "jobError":
    case "sessionError":
      console.error(`${message.value.code}: ${message.value.message}`);
      process.exitCode = 1;
  }
}
