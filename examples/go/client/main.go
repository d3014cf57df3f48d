// client AGENT FILE [STEP_MS]: submits a text, follows the job through dropped connections, prints its result.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"arcp.example/gen/arcp"
)

var (
	key      = rand.Text() // a submit sent twice is one job
	resume   *arcp.Resume  // set by each welcome: the session outlives its connection
	accepted bool
	result   string
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
	inputJSON, _ := json.Marshal(input)
	submit := &arcp.JobSubmit{Agent: os.Args[1], InputJson: string(inputJSON), IdempotencyKey: key}
	conn, err := grpc.NewClient(os.Getenv("ARCPD_SERVER"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second}))
	if err != nil {
		log.Fatal(err)
	}
	for {
		err := follow(arcp.NewRuntimeServiceClient(conn), submit)
		log.Printf("dialing again: %v", err)
		time.Sleep(500 * time.Millisecond)
	}
}

// Until the job or the connection ends.
func follow(client arcp.RuntimeServiceClient, submit *arcp.JobSubmit) error {
	stream, err := client.Session(context.Background())
	if err != nil {
		return err
	}
	// An error of Send is told by Recv.
	_ = stream.Send(&arcp.SessionRequest{Envelope: &arcp.Envelope{Arcp: "1.1", Id: rand.Text(),
		Payload: &arcp.Envelope_SessionHello{SessionHello: &arcp.SessionHello{
			ClientName: "go-example", ClientVersion: "1", AuthScheme: "bearer", AuthToken: os.Getenv("ARCPD_TOKEN"),
			Features: []string{"progress", "result_chunk"}, Resume: resume}}}})
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, envelope := range response.Envelopes {
			if envelope.EventSeq > 0 {
				resume.LastEventSeq = envelope.EventSeq
			}
			switch message := envelope.Payload.(type) {
			case *arcp.Envelope_SessionWelcome:
				resume = &arcp.Resume{SessionId: envelope.SessionId, ResumeToken: message.SessionWelcome.ResumeToken,
					LastEventSeq: resume.GetLastEventSeq()}
				if !accepted {
					_ = stream.Send(&arcp.SessionRequest{Envelope: &arcp.Envelope{Arcp: "1.1", Id: rand.Text(),
						SessionId: envelope.SessionId, Payload: &arcp.Envelope_JobSubmit{JobSubmit: submit}}})
				}
			case *arcp.Envelope_JobAccepted:
				accepted = true
			case *arcp.Envelope_JobEvent:
				if progress := message.JobEvent.GetProgress(); progress != nil {
					log.Printf("progress %v/%v", progress.Current, progress.GetTotal())
				}
				result += message.JobEvent.GetResultChunk().GetData() // text, as the agent sent it
			case *arcp.Envelope_JobResult:
				fmt.Println(result + message.JobResult.ResultJson) // one of the two is empty
				os.Exit(0)
			case *arcp.Envelope_JobError:
				log.Fatalf("%s: %s", message.JobError.Code, message.JobError.Message)
			case *arcp.Envelope_SessionError:
				log.Fatalf("%s: %s", message.SessionError.Code, message.SessionError.Message)
			}
		}
	}
}
