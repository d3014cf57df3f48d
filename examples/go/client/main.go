// client AGENT FILE [STEP_MS]: submits a text, follows its job, prints the result.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	"arcp.example/gen/arcp"
)

func main() {
	text, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	input := map[string]any{"text": string(text)}
	if len(os.Args) > 3 {
		input["step_ms"] = json.Number(os.Args[3])
	}
	inputJSON, err := json.Marshal(input)
	if err != nil {
		log.Fatal(err)
	}
	result := ""
	submit := &arcp.JobSubmit{Agent: os.Args[1], InputJson: string(inputJSON)}
	for envelope := range follow(os.Getenv("ARCPD_SERVER"), os.Getenv("ARCPD_TOKEN"), submit) {
		switch message := envelope.Payload.(type) {
		case *arcp.Envelope_JobEvent:
			if progress := message.JobEvent.GetProgress(); progress != nil {
				log.Printf("progress %v/%v", progress.Current, progress.GetTotal())
			}
			result += message.JobEvent.GetResultChunk().GetData() // text, as the agent sent it
		case *arcp.Envelope_JobResult:
			fmt.Println(result + message.JobResult.ResultJson) // one of the two is empty
		case *arcp.Envelope_JobError:
			log.Fatalf("%s: %s", message.JobError.Code, message.JobError.Message)
		case *arcp.Envelope_SessionError:
			log.Fatalf("%s: %s", message.SessionError.Code, message.SessionError.Message)
		}
	}
}
