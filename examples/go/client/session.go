// A job followed through dropped connections: its session outlives them.

package main

import (
	"context"
	"crypto/rand"
	"iter"
	"log"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"arcp.example/gen/arcp"
)

type session struct {
	hello    *arcp.SessionHello
	submit   *arcp.JobSubmit
	accepted bool
}

// What the runtime says of the job, each once and in order, to its end.
func follow(server, token string, submit *arcp.JobSubmit) iter.Seq[*arcp.Envelope] {
	submit.IdempotencyKey = rand.Text() // sent twice, it is one job
	s := &session{submit: submit, hello: &arcp.SessionHello{ClientName: "go-example", ClientVersion: "1",
		AuthScheme: "bearer", AuthToken: token, Features: []string{"progress", "result_chunk"}}}
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second}))
	if err != nil {
		log.Fatal(err)
	}
	return func(yield func(*arcp.Envelope) bool) {
		defer conn.Close()
		for {
			err := s.connect(arcp.NewRuntimeServiceClient(conn), yield)
			if err == nil {
				return
			}
			log.Printf("dialing again: %v", err)
			time.Sleep(500 * time.Millisecond)
		}
	}
}

// One connection, to the end of the job (nil) or its own. An error of Send is told by Recv.
func (s *session) connect(client arcp.RuntimeServiceClient, yield func(*arcp.Envelope) bool) error {
	stream, err := client.Session(context.Background())
	if err != nil {
		return err
	}
	_ = stream.Send(&arcp.SessionRequest{Envelope: &arcp.Envelope{Arcp: "1.1", Id: rand.Text(),
		Payload: &arcp.Envelope_SessionHello{SessionHello: s.hello}}})
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, envelope := range response.Envelopes {
			if envelope.EventSeq > 0 {
				s.hello.Resume.LastEventSeq = envelope.EventSeq
			}
			last := false
			switch message := envelope.Payload.(type) {
			case *arcp.Envelope_SessionWelcome:
				s.hello.Resume = &arcp.Resume{SessionId: envelope.SessionId, LastEventSeq: s.hello.Resume.GetLastEventSeq(),
					ResumeToken: message.SessionWelcome.ResumeToken}
				if !s.accepted {
					_ = stream.Send(&arcp.SessionRequest{Envelope: &arcp.Envelope{Arcp: "1.1", Id: rand.Text(),
						SessionId: envelope.SessionId, Payload: &arcp.Envelope_JobSubmit{JobSubmit: s.submit}}})
				}
			case *arcp.Envelope_JobAccepted:
				s.accepted = true
			case *arcp.Envelope_JobResult, *arcp.Envelope_JobError, *arcp.Envelope_SessionError:
				last = true
			}
			if !yield(envelope) || last {
				return nil
			}
		}
	}
}
