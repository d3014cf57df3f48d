// agent: word-count, the work alone; host.go is what stands between it and the runtime.
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"arcp.example/gen/arcp"
)

func main() {
	host(&arcp.HostedAgent{Name: cmp.Or(os.Getenv("ARCP_AGENT"), "word-count"), Version: "1.0.0"}, wordCount)
}

func wordCount(j *job, inputJSON string) *arcp.Complete {
	var input struct {
		Text   string `json:"text"`
		StepMS int64  `json:"step_ms"`
	}
	if err := json.Unmarshal([]byte(inputJSON), &input); err != nil {
		return &arcp.Complete{Outcome: &arcp.Complete_Failure{Failure: &arcp.Failure{Code: "INVALID_REQUEST", Message: err.Error()}}}
	}
	lines, read, words := slices.Collect(strings.Lines(input.Text)), 0, 0
	total := float64(len(lines))
	for some := range slices.Chunk(lines, 1+len(lines)/20) {
		read, words = read+len(some), words+len(strings.Fields(strings.Join(some, "")))
		j.event(&arcp.JobEvent{Body: &arcp.JobEvent_Progress{Progress: &arcp.Progress{Current: float64(read), Total: &total}}})
		select {
		case <-j.stopped.Done():
			return &arcp.Complete{Outcome: &arcp.Complete_Cancelled{Cancelled: &arcp.Cancelled{}}}
		case <-time.After(time.Duration(input.StepMS) * time.Millisecond):
		}
	}
	bytes := len(input.Text)
	j.event(&arcp.JobEvent{Body: &arcp.JobEvent_ToolCall{ToolCall: &arcp.ToolCall{Tool: "measure", CallId: "1", ArgsJson: "{}"}}})
	j.event(&arcp.JobEvent{Body: &arcp.JobEvent_ToolResult{ToolResult: &arcp.ToolResult{CallId: "1", ResultJson: fmt.Sprint(bytes)}}})
	j.part(fmt.Sprintf(`{"lines": %d`, read))
	j.part(fmt.Sprintf(`, "words": %d`, words))
	j.part(fmt.Sprintf(`, "bytes": %d}`, bytes))
	return &arcp.Complete{Outcome: &arcp.Complete_Parts{Parts: &arcp.ResultSummary{}}}
}
