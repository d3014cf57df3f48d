// Reads a JSON array of Kubernetes objects and says what the Pod Security Standard
// "restricted" has against their pods; by the code that the API server itself uses.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

type object struct {
	Kind     string            `json:"kind"`
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     json.RawMessage   `json:"spec"`
}

// Where an object of a kind has its pod.
func pod(o object) (*metav1.ObjectMeta, *corev1.PodSpec, error) {
	switch o.Kind {
	case "Pod":
		spec := &corev1.PodSpec{}
		return &o.Metadata, spec, json.Unmarshal(o.Spec, spec)
	case "StatefulSet", "Deployment", "Job", "DaemonSet":
		var outer struct{ Template corev1.PodTemplateSpec }
		err := json.Unmarshal(o.Spec, &outer)
		return &outer.Template.ObjectMeta, &outer.Template.Spec, err
	}
	return nil, nil, nil
}

func main() {
	var objects []object
	if err := json.NewDecoder(os.Stdin).Decode(&objects); err != nil {
		panic(err)
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(err)
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	pods, refused := 0, 0
	for _, o := range objects {
		metadata, spec, err := pod(o)
		if err != nil {
			panic(err)
		}
		if spec == nil {
			continue
		}
		pods++
		for _, result := range evaluator.EvaluatePod(restricted, metadata, spec) {
			if !result.Allowed {
				refused++
				fmt.Printf("%s %s: %s: %s\n", o.Kind, o.Metadata.Name, result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
	}
	fmt.Printf("%d pods, %d objections\n", pods, refused)
	if refused > 0 {
		os.Exit(1)
	}
}
