{{/* A cell: replicas that share a log in NATS JetStream (docs/cluster.md). "true" or empty. */}}
{{- define "arcpd.isCell" -}}
{{- if .Values.cluster.nats.url }}true{{ end }}
{{- end }}

{{/* A value that is not said depends on what this is: (list . value single cell). */}}
{{- define "arcpd.orByKind" -}}
{{- $root := index . 0 }}
{{- $said := index . 1 }}
{{- if kindIs "invalid" $said }}
{{- ternary (index . 3) (index . 2) (include "arcpd.isCell" $root | eq "true") }}
{{- else }}
{{- $said }}
{{- end }}
{{- end }}

{{/* In a cell endpoints forget a pod before it goes; alone there is nobody to go to. */}}
{{- define "arcpd.preStopSec" -}}
{{- include "arcpd.orByKind" (list . .Values.drain.preStopSec 0 5) }}
{{- end }}

{{/* In a cell a store that is new is made of the whole stream first. */}}
{{- define "arcpd.startupSec" -}}
{{- include "arcpd.orByKind" (list . .Values.probes.startupSec 300 1800) }}
{{- end }}

{{- define "arcpd.cellName" -}}
{{- default (include "arcpd.fullname" .) .Values.cluster.name }}
{{- end }}

{{/* `[cluster]` of the configuration file. */}}
{{- define "arcpd.cellSettings" -}}
{{- $nats := .Values.cluster.nats }}
servers: {{ toJson $nats.url }}
name: {{ include "arcpd.cellName" . | toJson }}
replication: {{ int .Values.cluster.replication }}
{{- if $nats.existingSecret }}
{{- if eq $nats.login "password" }}
user: {{ toJson $nats.user }}
{{- end }}
{{ $nats.login }}_file: /etc/arcpd/nats-login/{{ $nats.login }}
{{- end }}
{{- if $nats.tls.ca.existingSecret }}
tls_ca_file: /etc/arcpd/nats-ca/ca.crt
{{- end }}
{{- if $nats.tls.clientCertificate.existingSecret }}
tls_cert_file: /etc/arcpd/nats-client/tls.crt
tls_key_file: /etc/arcpd/nats-client/tls.key
{{- end }}
{{- end }}

{{/* What it connects with; each file under the name of its setting. */}}
{{- define "arcpd.natsVolumes" -}}
{{- $nats := .Values.cluster.nats }}
{{- if $nats.existingSecret }}
- name: nats-login
  secret:
    secretName: {{ $nats.existingSecret | quote }}
    defaultMode: 0440
    items:
      - key: {{ get (dict "password" $nats.passwordKey "token" $nats.tokenKey "credentials" $nats.credentialsKey) $nats.login | quote }}
        path: {{ $nats.login }}
{{- end }}
{{- with $nats.tls.ca }}
{{- if .existingSecret }}
- name: nats-ca
  secret:
    secretName: {{ .existingSecret | quote }}
    defaultMode: 0440
    items:
      - key: {{ .key | quote }}
        path: ca.crt
{{- end }}
{{- end }}
{{- with $nats.tls.clientCertificate.existingSecret }}
- name: nats-client
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{/* Ports of the servers, as a list. */}}
{{- define "arcpd.natsPorts" -}}
{{- $ports := list }}
{{- range splitList "," .Values.cluster.nats.url }}
{{- $ports = append $ports (regexFind ":[0-9]+/?$" (trim .) | trimPrefix ":" | trimSuffix "/" | default "4222" | int) }}
{{- end }}
{{- toYaml (uniq $ports) }}
{{- end }}

{{/* Over zones and machines, as far as there are some: a cell that cannot be spread still runs. */}}
{{- define "arcpd.spread" -}}
{{- $given := .Values.topologySpreadConstraints }}
{{- if not (kindIs "invalid" $given) }}
{{- with $given }}
{{- toYaml . }}
{{- end }}
{{- else if include "arcpd.isCell" . }}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "arcpd.selectorLabels" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "arcpd.affinity" -}}
{{- $affinity := default dict .Values.affinity | deepCopy }}
{{- if and (include "arcpd.isCell" .) (not (hasKey $affinity "podAntiAffinity")) }}
{{- $term := dict
  "topologyKey" "kubernetes.io/hostname"
  "labelSelector" (dict "matchLabels" (include "arcpd.selectorLabels" . | fromYaml)) }}
{{- $soft := list (dict "weight" 100 "podAffinityTerm" $term) }}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" $soft) }}
{{- end }}
{{- with $affinity }}
{{- toYaml . }}
{{- end }}
{{- end }}
