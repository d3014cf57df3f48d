{{/* Apart from NOTES.txt, which only an install renders. */}}
{{- define "arcpd.notes" -}}
{{- $name := include "arcpd.fullname" . -}}
{{- $ns := .Release.Namespace -}}
{{- $secret := include "arcpd.tokensSecret" . -}}
{{- $key := .Values.auth.existingSecret | empty | ternary "token" .Values.auth.tokenKey -}}
{{- $port := int .Values.service.port -}}
{{- /* Whoever asks from a machine may not have its port 443. */ -}}
{{- $local := int .Values.containerPorts.grpc -}}
{{- $admin := int .Values.containerPorts.admin -}}
arcpd {{ .Chart.AppVersion }} is called {{ $name }} in namespace {{ $ns }}.
{{- if include "arcpd.isCell" . }}
It is a cell: its replicas share the stream ARCP_LOG_{{ include "arcpd.cellName" . }}, and any of them takes any client and any agent host.
{{- end }}

Inside the cluster:

  gRPC       {{ $name }}.{{ $ns }}.svc:{{ $port }}{{ if .Values.tls.enabled }} (TLS){{ end }}
  WebSocket  {{ ternary "wss" "ws" .Values.tls.enabled }}://{{ $name }}.{{ $ns }}.svc:{{ $port }}/arcp
{{- with include "arcpd.outside" . | trim }}

From outside:

  {{ . | nindent 2 | trim }}
{{- end }}

Wait for it, and ask it from here:

  kubectl rollout status --namespace {{ $ns }} statefulset/{{ $name }}
  export ARCPD_TOKEN=$(kubectl get secret --namespace {{ $ns }} {{ $secret }} -o jsonpath='{.data.{{ $key | replace "." "\\." }}}' | base64 -d)
  kubectl port-forward --namespace {{ $ns }} service/{{ $name }} {{ $local }}:{{ $port }} &
{{- if .Values.tls.enabled }}
  grpcurl -insecure {{ if .Values.tls.clientCA.existingSecret }}-cert client.crt -key client.key {{ end }}-H "authorization: Bearer $ARCPD_TOKEN" 127.0.0.1:{{ $local }} arcp.v1.JobService/ListJobs
{{- else }}
  grpcurl -plaintext -H "authorization: Bearer $ARCPD_TOKEN" 127.0.0.1:{{ $local }} arcp.v1.JobService/ListJobs
{{- end }}

{{- if include "arcpd.isCell" . }}

That is some replica. One of them, and what it knows of the others:

  kubectl port-forward --namespace {{ $ns }} pod/{{ $name }}-0 {{ $admin }}:{{ $admin }} &
  curl -s 127.0.0.1:{{ $admin }}/metrics | grep ^arcpd_cluster_
{{- end }}

{{- if and .Values.test.enabled (not .Values.tls.clientCA.existingSecret) }}

Test it:

  helm test --namespace {{ $ns }} {{ .Release.Name }}
{{- end }}
{{- if not .Values.config.hosting }}

Nobody may host agents yet. Say who in config.hosting, and give that principal a token (docs/kubernetes.md).
{{- end }}
{{- if not .Values.persistence.enabled }}

{{- if include "arcpd.isCell" . }}
persistence.enabled is false. Nothing is lost with a pod, but each new one reads the whole stream before it is ready.
{{- else }}
WARNING: persistence.enabled is false. Jobs, sessions and events are lost with the pod.
{{- end }}
{{- end }}
{{- end }}

{{/* Where it is reached by who is not in the cluster, a line for each way. */}}
{{- define "arcpd.outside" -}}
{{- if .Values.ingress.enabled }}
gRPC       {{ .Values.ingress.host }}:443
WebSocket  wss://{{ .Values.ingress.host }}/arcp
{{- end }}
{{- if .Values.gateway.enabled }}
{{- range .Values.gateway.hostnames }}
gRPC       {{ . }}, by the gateway {{ (first $.Values.gateway.parentRefs).name }}
WebSocket  {{ . }}/arcp
{{- end }}
{{- range .Values.gateway.grpcHostnames }}
gRPC       {{ . }}, by the gateway {{ (first $.Values.gateway.parentRefs).name }}
{{- end }}
{{- end }}
{{- if ne .Values.service.type "ClusterIP" }}
kubectl get service --namespace {{ .Release.Namespace }} {{ include "arcpd.fullname" . }}     # {{ .Values.service.type }}
{{- end }}
{{- end }}
