{{- define "arcpd.name" -}}
{{- default .Chart.Name .Values.nameOverride | lower | trunc 40 | trimAll "-" }}
{{- end }}

{{/* Leaves room for the suffixes -headless, -admin, -test and the pod's number. A release name may have dots,
the name of a Service may not. */}}
{{- define "arcpd.fullname" -}}
{{- $release := .Release.Name | replace "." "-" }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimAll "-" }}
{{- else if contains (include "arcpd.name" .) $release }}
{{- $release | trunc 40 | trimAll "-" }}
{{- else }}
{{- printf "%s-%s" $release (include "arcpd.name" .) | trunc 40 | trimAll "-" }}
{{- end }}
{{- end }}

{{/* Never change with a version: a StatefulSet's selector cannot. */}}
{{- define "arcpd.selectorLabels" -}}
app.kubernetes.io/name: {{ include "arcpd.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: runtime
{{- end }}

{{- define "arcpd.testLabels" -}}
app.kubernetes.io/name: {{ include "arcpd.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
{{- end }}

{{- define "arcpd.labels" -}}
{{- $own := dict
  "app.kubernetes.io/name" (include "arcpd.name" .)
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service
  "app.kubernetes.io/part-of" "arcp"
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- toYaml $own }}
{{- end }}

{{/* Metadata of an object: (list . "suffix" labels annotations). What is for all objects goes last. */}}
{{- define "arcpd.metadata" -}}
{{- $root := index . 0 }}
{{- $common := default dict $root.Values.commonLabels }}
{{- $labels := merge (include "arcpd.labels" $root | fromYaml) (index . 2 | default dict) $common }}
{{- $annotations := merge dict (index . 3 | default dict) (default dict $root.Values.commonAnnotations) -}}
name: {{ printf "%s%s" (include "arcpd.fullname" $root) (index . 1) | quote }}
namespace: {{ $root.Release.Namespace | quote }}
labels:
  {{- toYaml $labels | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "arcpd.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository $tag }}
{{- end }}
{{- end }}

{{- define "arcpd.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "arcpd.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "arcpd.tokensSecret" -}}
{{- default (printf "%s-tokens" (include "arcpd.fullname" .)) .Values.auth.existingSecret }}
{{- end }}

{{- define "arcpd.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled }}
{{- printf "%s-tls" (include "arcpd.fullname" .) }}
{{- else }}
{{- .Values.tls.existingSecret }}
{{- end }}
{{- end }}

{{/* Of the client port, by the Service's own name. */}}
{{- define "arcpd.url" -}}
{{- printf "%s://%s.%s.svc:%v" (ternary "https" "http" .Values.tls.enabled) (include "arcpd.fullname" .) .Release.Namespace (int .Values.service.port) }}
{{- end }}

{{/* Services of gRPC on the client port, as the first element of their paths. */}}
{{- define "arcpd.services" -}}
- /arcp.v1.RuntimeService
- /arcp.v1.JobService
- /arcp.v1.AgentHostService
- /arcp.v1.AdminService
- /grpc.health.v1.Health
- /grpc.reflection.v1.ServerReflection
- /grpc.reflection.v1alpha.ServerReflection
{{- end }}

{{/* What the pod has from SIGTERM, or the hook before it, to SIGKILL. */}}
{{- define "arcpd.gracePeriod" -}}
{{- $preStop := include "arcpd.preStopSec" . | int }}
{{- $needed := add $preStop .Values.config.drain_deadline_sec .Values.drain.marginSec | int }}
{{- $wanted := .Values.drain.terminationGracePeriodSeconds }}
{{- if kindIs "invalid" $wanted }}
{{- $needed }}
{{- else if lt (int $wanted) $needed }}
{{- fail (printf "\n\ndrain.terminationGracePeriodSeconds is %d, but the pod needs %d s to go: drain.preStopSec (%d) + config.drain_deadline_sec (%d) + drain.marginSec (%d). Leave it out, or lower one of these." (int $wanted) $needed $preStop (int .Values.config.drain_deadline_sec) (int .Values.drain.marginSec)) }}
{{- else }}
{{- int $wanted }}
{{- end }}
{{- end }}
