{{- define "arcpd.pod" -}}
serviceAccountName: {{ include "arcpd.serviceAccountName" . | quote }}
automountServiceAccountToken: false
# A variable for each Service of the namespace is of no use here.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "arcpd.gracePeriod" . }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "arcpd.affinity" . }}
affinity:
  {{- . | nindent 2 }}
{{- end }}
{{- with include "arcpd.spread" . | trim }}
topologySpreadConstraints:
  {{- . | nindent 2 }}
{{- end }}
containers:
  - name: arcpd
    image: {{ include "arcpd.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args:
      - serve
      - --config=/etc/arcpd/arcpd.toml
      {{- range .Values.extraArgs }}
      - {{ . | quote }}
      {{- end }}
    env:
      - name: RUST_LOG
        value: {{ .Values.logLevel | quote }}
      {{- with include "arcpd.otlp" . }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with .Values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - name: grpc
        containerPort: {{ int .Values.containerPorts.grpc }}
      - name: admin
        containerPort: {{ int .Values.containerPorts.admin }}
    {{- $admin := int .Values.containerPorts.admin }}
    {{- $period := int .Values.probes.periodSec }}
    startupProbe:
      grpc:
        port: {{ $admin }}
        service: readiness
      periodSeconds: {{ $period }}
      timeoutSeconds: {{ int .Values.probes.timeoutSec }}
      failureThreshold: {{ max 1 (div (include "arcpd.startupSec" . | int) $period) }}
    livenessProbe:
      grpc:
        port: {{ $admin }}
        service: liveness
      periodSeconds: {{ $period }}
      timeoutSeconds: {{ int .Values.probes.timeoutSec }}
      failureThreshold: 6
    readinessProbe:
      grpc:
        port: {{ $admin }}
        service: readiness
      periodSeconds: {{ $period }}
      timeoutSeconds: {{ int .Values.probes.timeoutSec }}
      failureThreshold: 2
    {{- with include "arcpd.preStopSec" . | int }}
    # The kubelet's own sleep, there since Kubernetes 1.30: the image has no shell.
    lifecycle:
      preStop:
        sleep:
          seconds: {{ . }}
    {{- end }}
    {{- with .Values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.securityContext }}
    securityContext:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    volumeMounts:
      - name: data
        mountPath: /var/lib/arcpd
      - name: tmp
        mountPath: /tmp
      - name: config
        mountPath: /etc/arcpd/arcpd.toml
        subPath: arcpd.toml
        readOnly: true
      {{- range include "arcpd.secretVolumes" . | fromYamlArray }}
      - name: {{ .name }}
        mountPath: /etc/arcpd/{{ .name }}
        readOnly: true
      {{- end }}
      {{- with .Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  {{- if not .Values.persistence.enabled }}
  - name: data
    emptyDir: {}
  {{- else if .Values.persistence.existingClaim }}
  - name: data
    persistentVolumeClaim:
      claimName: {{ .Values.persistence.existingClaim | quote }}
  {{- end }}
  - name: tmp
    emptyDir: {}
  - name: config
    configMap:
      name: {{ include "arcpd.fullname" . | quote }}
  {{- include "arcpd.secretVolumes" . | nindent 2 }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Whole folders: a file mounted by itself is never renewed. */}}
{{- define "arcpd.secretVolumes" -}}
- name: tokens
  secret:
    secretName: {{ include "arcpd.tokensSecret" . | quote }}
    defaultMode: 0440
    items:
      - key: {{ .Values.auth.existingSecret | empty | ternary "tokens" .Values.auth.tokensKey | quote }}
        path: tokens
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "arcpd.tlsSecret" . | quote }}
    defaultMode: 0440
{{- end }}
{{- with .Values.tls.clientCA }}
{{- if .existingSecret }}
- name: client-ca
  secret:
    secretName: {{ .existingSecret | quote }}
    defaultMode: 0440
    items:
      - key: {{ .key | quote }}
        path: ca.crt
{{- end }}
{{- end }}
{{- with .Values.secrets.policy }}
{{- if .existingSecret }}
- name: policy
  secret:
    secretName: {{ .existingSecret | quote }}
    defaultMode: 0440
    items:
      - key: {{ .key | quote }}
        path: policy.toml
{{- end }}
{{- end }}
{{- range $name, $secret := dict "encryption-key" .Values.secrets.encryptionKey "master-key" .Values.secrets.masterKey }}
{{- if $secret.existingSecret }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret.existingSecret | quote }}
    defaultMode: 0440
    items:
      - key: {{ $secret.key | quote }}
        path: key
{{- end }}
{{- end }}
{{- if include "arcpd.isCell" . }}
{{- include "arcpd.natsVolumes" . }}
{{- end }}
{{- end }}

{{- define "arcpd.otlp" -}}
{{- with .Values.otlp }}
{{- if .endpoint -}}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ .protocol | quote }}
- name: OTEL_TRACES_SAMPLER
  value: {{ .sampler | quote }}
{{- if ne (toString .samplerArg) "" }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .samplerArg | quote }}
{{- end }}
- name: K8S_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: K8S_POD_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
- name: K8S_NAMESPACE_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: K8S_NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ include "arcpd.resourceAttributes" $ | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "arcpd.resourceAttributes" -}}
{{- $all := list
  "k8s.pod.name=$(K8S_POD_NAME)"
  "k8s.pod.uid=$(K8S_POD_UID)"
  "k8s.namespace.name=$(K8S_NAMESPACE_NAME)"
  "k8s.node.name=$(K8S_NODE_NAME)"
  (printf "k8s.statefulset.name=%s" (include "arcpd.fullname" .))
  "k8s.container.name=arcpd" }}
{{- range $name, $value := .Values.otlp.resourceAttributes }}
{{- /* A whole number of a values file is a float, and what separates attributes is written as in a URL. */}}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) (lt $value 1e15) }}
{{- $value = int64 $value }}
{{- end }}
{{- $value = toString $value | replace "%" "%25" | replace "," "%2C" | replace "=" "%3D" }}
{{- $all = append $all (printf "%s=%s" $name $value) }}
{{- end }}
{{- join "," $all }}
{{- end }}
