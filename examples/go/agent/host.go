// Hosts an agent, and keeps its jobs through dropped connections.

package main

import (
	"context"
	"crypto/rand"
	"log"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"arcp.example/gen/arcp"
)

// One assignment, with the reports the runtime has not acked yet.
type job struct {
	ref     *arcp.AssignmentRef
	seq     uint64
	unacked []*arcp.Report
	stopped context.Context
	stop    context.CancelFunc
}

// Returns how the job ends.
type agent func(j *job, inputJSON string) *arcp.Complete

var (
	id        = rand.Text()                     // of this process: after a reconnect its jobs are its own again
	mu        sync.Mutex                        // guards what follows, each job's reports, and sending
	jobs      = map[string]*job{}               // by lease token
	connected arcp.AgentHostService_ServeClient // nil until registered
)

func host(hosted *arcp.HostedAgent, work agent) {
	conn, err := grpc.NewClient(os.Getenv("ARCPD_SERVER"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second}))
	if err != nil {
		log.Fatal(err)
	}
	refused := []codes.Code{codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument}
	for {
		err := serve(arcp.NewAgentHostServiceClient(conn), hosted, work)
		if slices.Contains(refused, status.Code(err)) {
			log.Fatal(err)
		}
		log.Printf("dialing again: %v", err)
		time.Sleep(mathrand.N(time.Second))
	}
}

// One connection, from its register to its end. An error of Send is told by Recv.
func serve(client arcp.AgentHostServiceClient, hosted *arcp.HostedAgent, work agent) error {
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+os.Getenv("ARCPD_TOKEN"))
	stream, err := client.Serve(ctx)
	if err != nil {
		return err
	}
	register := &arcp.Register{HostName: "go-example", HostInstanceId: id, MaxInFlight: 16, Agents: []*arcp.HostedAgent{hosted}}
	mu.Lock()
	connected = nil
	for _, j := range jobs {
		register.Resume = append(register.Resume, &arcp.HeldAssignment{Ref: j.ref})
	}
	mu.Unlock()
	_ = stream.Send(&arcp.ServeRequest{Message: &arcp.ServeRequest_Register{Register: register}})
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		mu.Lock()
		receive(stream, response, work)
		mu.Unlock()
	}
}

func receive(stream arcp.AgentHostService_ServeClient, response *arcp.ServeResponse, work agent) {
	switch m := response.Message.(type) {
	case *arcp.ServeResponse_Registered:
		connected = stream
		go heartbeat(stream, m.Registered.HeartbeatInterval.AsDuration())
		for _, ref := range m.Registered.Drop {
			drop(ref)
		}
		for _, kept := range m.Registered.Keep {
			forget(kept.Ref, kept.AckedSeq)
			if j := jobs[kept.Ref.LeaseToken]; j != nil && len(j.unacked) > 0 {
				j.send(j.unacked)
			}
			if kept.Cancelled {
				stop(kept.Ref)
			}
		}
	case *arcp.ServeResponse_Assign:
		j := &job{ref: m.Assign.Ref}
		j.stopped, j.stop = context.WithCancel(context.Background())
		jobs[j.ref.LeaseToken] = j
		_ = stream.Send(&arcp.ServeRequest{Message: &arcp.ServeRequest_Accept{Accept: &arcp.Accept{Ref: j.ref}}})
		go func() { j.report(&arcp.Report{Report: &arcp.Report_Complete{Complete: work(j, m.Assign.InputJson)}}) }()
	case *arcp.ServeResponse_Ack:
		forget(m.Ack.Ref, m.Ack.Seq)
	case *arcp.ServeResponse_Cancel:
		stop(m.Cancel.Ref)
	case *arcp.ServeResponse_Revoked:
		drop(m.Revoked.Ref)
	case *arcp.ServeResponse_Rejected:
		log.Print(m.Rejected)
	}
}

func heartbeat(stream arcp.AgentHostService_ServeClient, interval time.Duration) {
	for range time.Tick(interval) {
		mu.Lock()
		err := stream.Send(&arcp.ServeRequest{Message: &arcp.ServeRequest_Heartbeat{Heartbeat: &arcp.Heartbeat{}}})
		mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Those reports are durable; after the last one the job is done with.
func forget(ref *arcp.AssignmentRef, seq uint64) {
	if j := jobs[ref.LeaseToken]; j != nil {
		durable := func(r *arcp.Report) bool { return r.Seq <= seq }
		if slices.ContainsFunc(j.unacked, func(r *arcp.Report) bool { return durable(r) && r.GetComplete() != nil }) {
			drop(ref)
		}
		j.unacked = slices.DeleteFunc(j.unacked, durable)
	}
}

func stop(ref *arcp.AssignmentRef) {
	if j := jobs[ref.LeaseToken]; j != nil {
		j.stop()
	}
}

func drop(ref *arcp.AssignmentRef) {
	stop(ref)
	delete(jobs, ref.LeaseToken)
}

// Numbers a report and keeps it until it is acked: a broken connection loses none.
func (j *job) report(r *arcp.Report) {
	mu.Lock()
	defer mu.Unlock()
	j.seq++
	r.Seq = j.seq
	j.unacked = append(j.unacked, r)
	j.send([]*arcp.Report{r})
}

func (j *job) send(reports []*arcp.Report) {
	if connected != nil {
		reports := &arcp.Reports{Ref: j.ref, Reports: reports}
		_ = connected.Send(&arcp.ServeRequest{Message: &arcp.ServeRequest_Reports{Reports: reports}})
	}
}

func (j *job) event(event *arcp.JobEvent) {
	j.report(&arcp.Report{Report: &arcp.Report_Event{Event: event}})
}

// The next part of a result of text.
func (j *job) part(text string) {
	part := &arcp.ResultPart{Part: &arcp.ResultPart_Text{Text: text}}
	j.report(&arcp.Report{Report: &arcp.Report_ResultPart{ResultPart: part}})
}
