{{/* What cannot be, said before anything is rendered. */}}
{{- define "arcpd.check" -}}
{{- $v := .Values }}
{{- if and (gt (int $v.replicas) 1) (not $v.cluster.nats.url) }}
{{- fail (printf "\n\nreplicas is %d, but one process at a time writes the store, and each replica would have jobs and sessions of its own. Replicas share a log in NATS JetStream: set cluster.nats.url to its servers (docs/kubernetes.md, \"Several replicas\"), or leave replicas at 1." (int $v.replicas)) }}
{{- end }}
{{- include "arcpd.checkCell" . }}
{{- include "arcpd.checkAutoscaling" . }}
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
{{- include "arcpd.checkGateway" . }}
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
