{{- define "arcpd.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Leaves room for the suffixes -headless, -admin, -test and the pod's number. */}}
{{- define "arcpd.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "arcpd.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "arcpd.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Never change with a version: a StatefulSet's selector cannot. */}}
{{- define "arcpd.selectorLabels" -}}
app.kubernetes.io/name: {{ include "arcpd.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: runtime
{{- end }}

{{- define "arcpd.testLabels" -}}
app.kubernetes.io/name: {{ include "arcpd.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
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
{{- merge $own .Values.commonLabels | toYaml }}
{{- end }}

{{/* Metadata of an object: (list . "suffix" labels annotations). */}}
{{- define "arcpd.metadata" -}}
{{- $root := index . 0 }}
{{- $labels := merge (include "arcpd.labels" $root | fromYaml) (index . 2) }}
{{- $annotations := merge (deepCopy (index . 3)) $root.Values.commonAnnotations -}}
name: {{ include "arcpd.fullname" $root }}{{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
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

{{/* What the pod has from SIGTERM, or the hook before it, to SIGKILL. */}}
{{- define "arcpd.gracePeriod" -}}
{{- $needed := add .Values.drain.preStopSec .Values.config.drain_deadline_sec .Values.drain.marginSec | int }}
{{- $wanted := .Values.drain.terminationGracePeriodSeconds }}
{{- if kindIs "invalid" $wanted }}
{{- $needed }}
{{- else if lt (int $wanted) $needed }}
{{- fail (printf "\n\ndrain.terminationGracePeriodSeconds is %d, but the pod needs %d s to go: drain.preStopSec (%d) + config.drain_deadline_sec (%d) + drain.marginSec (%d). Leave it out, or lower one of these." (int $wanted) $needed (int .Values.drain.preStopSec) (int .Values.config.drain_deadline_sec) (int .Values.drain.marginSec)) }}
{{- else }}
{{- int $wanted }}
{{- end }}
{{- end }}

{{/* What cannot be, said before anything is rendered. */}}
{{- define "arcpd.check" -}}
{{- $v := .Values }}
{{- if gt (int $v.replicas) 1 }}
{{- fail (printf "\n\nreplicas is %d, but one process at a time writes the store, and each replica would have jobs and sessions of its own. Clients reconnect and resume when the one pod is replaced; to serve more, install more releases and divide the clients among them." (int $v.replicas)) }}
{{- end }}
{{- if $v.tls.enabled }}
{{- if and $v.tls.existingSecret $v.tls.certManager.enabled }}
{{- fail "\n\ntls.existingSecret and tls.certManager.enabled: give one of them." }}
{{- end }}
{{- if not (or $v.tls.existingSecret $v.tls.certManager.enabled) }}
{{- fail "\n\ntls.enabled needs tls.existingSecret, or tls.certManager.enabled with tls.certManager.issuerRef." }}
{{- end }}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef) }}
{{- fail "\n\ntls.certManager.issuerRef is empty: name who signs, as in {kind: ClusterIssuer, name: internal}." }}
{{- end }}
{{- else if or $v.tls.existingSecret $v.tls.certManager.enabled $v.tls.clientCA.existingSecret }}
{{- fail "\n\ntls: there is a certificate, but tls.enabled is false." }}
{{- end }}
{{- if and $v.serviceMonitor.enabled $v.podMonitor.enabled }}
{{- fail "\n\nserviceMonitor and podMonitor: enable one of them, or every figure is there twice." }}
{{- end }}
{{- range $value, $file := dict "prometheusRule" "files/alerts.yaml" "dashboard" "files/dashboard.json" }}
{{- if and (get $v $value).enabled (not ($.Files.Get $file)) }}
{{- fail (printf "\n\n%s.enabled: this chart was packed without %s." $value $file) }}
{{- end }}
{{- end }}
{{- if and $v.gateway.enabled (not $v.gateway.parentRefs) }}
{{- fail "\n\ngateway.parentRefs is empty: name the gateway, as in [{name: public, namespace: gateways}]." }}
{{- end }}
{{- if and $v.gateway.envoyGateway.enabled (not $v.gateway.enabled) }}
{{- fail "\n\ngateway.envoyGateway.enabled needs gateway.enabled." }}
{{- end }}
{{- if and $v.persistence.existingClaim (not $v.persistence.enabled) }}
{{- fail "\n\npersistence.existingClaim: there is a claim, but persistence.enabled is false." }}
{{- end }}
{{- if and $v.service.nodePort (eq $v.service.type "ClusterIP") }}
{{- fail "\n\nservice.nodePort is for service.type NodePort or LoadBalancer." }}
{{- end }}
{{- if eq (int $v.service.port) (int $v.service.adminPort) }}
{{- fail "\n\nservice.port and service.adminPort are the same; clients and probes need ports of their own." }}
{{- end }}
{{- end }}
