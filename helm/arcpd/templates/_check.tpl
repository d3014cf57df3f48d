{{/* What cannot be, said before anything is rendered. */}}
{{- define "arcpd.check" -}}
{{- $v := .Values }}
{{- $name := include "arcpd.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "\n\nThe objects would be called %s, and the name of a Service begins with a letter: set fullnameOverride." $name) }}
{{- end }}
{{- if and (gt (int $v.replicas) 1) (not $v.cluster.nats.url) }}
{{- fail (printf "\n\nreplicas is %d, but one process at a time writes the store, and each replica would have jobs and sessions of its own. Replicas share a log in NATS JetStream: set cluster.nats.url to its servers (docs/kubernetes.md, \"Several replicas\"), or leave replicas at 1." (int $v.replicas)) }}
{{- end }}
{{- include "arcpd.checkCell" . }}
{{- include "arcpd.checkAutoscaling" . }}
{{- include "arcpd.checkImage" . }}
{{- include "arcpd.checkTokens" . }}
{{- include "arcpd.checkTimes" . }}
{{- include "arcpd.checkCredentials" . }}
{{- include "arcpd.checkTls" . }}
{{- include "arcpd.checkGateway" . }}
{{- include "arcpd.checkObserving" . }}
{{- $own := list "RUST_LOG" }}
{{- range include "arcpd.otlp" . | fromYamlArray }}
{{- $own = append $own .name }}
{{- end }}
{{- range $v.extraEnv }}
{{- if has (get . "name" | toString) $own }}
{{- fail (printf "\n\nextraEnv has %s, which the chart sets, and a variable that is there twice is lost or refused: see logLevel and otlp." (get . "name")) }}
{{- end }}
{{- if eq (get . "name" | toString) "ARCPD_DRAIN_DEADLINE_SEC" }}
{{- fail "\n\nextraEnv has ARCPD_DRAIN_DEADLINE_SEC: set config.drain_deadline_sec, which the pod's grace period follows." }}
{{- end }}
{{- if eq (get . "name" | toString) "ARCPD_TOKENS" }}
{{- fail "\n\nextraEnv has ARCPD_TOKENS: the runtime takes tokens from one place, and here that is a file; give them in auth.existingSecret." }}
{{- end }}
{{- end }}
{{- range $v.extraArgs }}
{{- if hasPrefix "--drain-deadline-sec" . }}
{{- fail "\n\nextraArgs has --drain-deadline-sec: set config.drain_deadline_sec, which the pod's grace period follows." }}
{{- end }}
{{- end }}
{{- if and $v.persistence.existingClaim (not $v.persistence.enabled) }}
{{- fail "\n\npersistence.existingClaim: there is a claim, but persistence.enabled is false." }}
{{- end }}
{{- include "arcpd.checkService" . }}
{{- end }}

{{/* What the API server would refuse, or what would be there and do nothing. */}}
{{- define "arcpd.checkService" -}}
{{- $service := .Values.service }}
{{- $ports := .Values.containerPorts }}
{{- if eq (int $ports.grpc) (int $ports.admin) }}
{{- fail "\n\ncontainerPorts.grpc and containerPorts.admin are the same; clients and probes need ports of their own." }}
{{- end }}
{{- range $key := list "nodePort" "externalTrafficPolicy" }}
{{- if and (get $service $key) (eq $service.type "ClusterIP") }}
{{- fail (printf "\n\nservice.%s is for service.type NodePort or LoadBalancer." $key) }}
{{- end }}
{{- end }}
{{- range $key := list "loadBalancerClass" "loadBalancerSourceRanges" }}
{{- if and (get $service $key) (ne $service.type "LoadBalancer") }}
{{- fail (printf "\n\nservice.%s is for service.type LoadBalancer, and it is %s: it would bound nobody." $key $service.type) }}
{{- end }}
{{- end }}
{{- $families := default list $service.ipFamilies }}
{{- $policy := default "SingleStack" $service.ipFamilyPolicy }}
{{- if and (gt (len $families) 1) (eq $policy "SingleStack") }}
{{- fail "\n\nservice.ipFamilies are two: set service.ipFamilyPolicy to PreferDualStack or RequireDualStack." }}
{{- end }}
{{- if and (or (has "IPv6" $families) (ne $policy "SingleStack")) (ne .Values.bindAddress "[::]") }}
{{- fail "\n\nservice: its addresses would be of IPv6, where the process does not listen: set bindAddress to \"[::]\", which takes IPv4 too." }}
{{- end }}
{{- end }}

{{- define "arcpd.checkTls" -}}
{{- $tls := .Values.tls }}
{{- $certManager := $tls.certManager }}
{{- if $tls.enabled }}
{{- if and $tls.existingSecret $certManager.enabled }}
{{- fail "\n\ntls.existingSecret and tls.certManager.enabled: give one of them." }}
{{- end }}
{{- if not (or $tls.existingSecret $certManager.enabled) }}
{{- fail "\n\ntls.enabled needs tls.existingSecret, or tls.certManager.enabled with tls.certManager.issuerRef." }}
{{- end }}
{{- else if or $tls.existingSecret $certManager.enabled $tls.clientCA.existingSecret }}
{{- fail "\n\ntls: there is a certificate, but tls.enabled is false." }}
{{- end }}
{{- if $certManager.enabled }}
{{- if not (get (default dict $certManager.issuerRef) "name") }}
{{- fail "\n\ntls.certManager.issuerRef is empty or has no name: say who signs, as in {kind: ClusterIssuer, name: internal}." }}
{{- end }}
{{- $duration := include "arcpd.seconds" $certManager.duration | int }}
{{- $before := include "arcpd.seconds" $certManager.renewBefore | int }}
{{- if or (lt $duration 3600) (lt $before 300) (ge $before $duration) }}
{{- fail (printf "\n\ntls.certManager.duration is %s and tls.certManager.renewBefore %s: cert-manager wants the first to be 1h or more, the second 5m or more and less than the first." $certManager.duration $certManager.renewBefore) }}
{{- end }}
{{- else if $certManager.issuerRef }}
{{- fail "\n\ntls.certManager.issuerRef: somebody is to sign, but tls.certManager.enabled is false." }}
{{- end }}
{{- end }}

{{/* Of a duration as in 1h30m, rounded down. */}}
{{- define "arcpd.seconds" -}}
{{- $seconds := 0 }}
{{- range regexFindAll "[0-9]+(h|ms|m|s)" . -1 }}
{{- $unit := get (dict "h" 3600 "m" 60 "s" 1 "ms" 0) (regexFind "[a-z]+$" .) }}
{{- $seconds = regexFind "^[0-9]+" . | atoi | mul $unit | add $seconds }}
{{- end }}
{{- $seconds }}
{{- end }}

{{/* Helm removes what a release no longer makes, and the pods would find no secret. Seen where the cluster can be asked. */}}
{{- define "arcpd.checkTokens" -}}
{{- $existing := .Values.auth.existingSecret }}
{{- if eq $existing (printf "%s-tokens" (include "arcpd.fullname" .)) }}
{{- $there := lookup "v1" "Secret" .Release.Namespace $existing | default dict }}
{{- if eq (dig "metadata" "annotations" "meta.helm.sh/release-name" "" $there) .Release.Name }}
{{- fail (printf "\n\nauth.existingSecret is %s, which this release made, and would remove now that it is to make none. Leave it empty, or copy what it has to a secret of another name." $existing) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A tag twice is a name that no kubelet takes. */}}
{{- define "arcpd.checkImage" -}}
{{- $repository := .Values.image.repository }}
{{- if regexMatch ":[^/]*$" $repository }}
{{- fail (printf "\n\nimage.repository is %s: give what follows the colon in image.tag." $repository) }}
{{- end }}
{{- end }}

{{/* Of two settings that bound each other, with the runtime's own defaults: docs/configuration.md, docs/credentials.md. */}}
{{- define "arcpd.checkTimes" -}}
{{- $hosts := default dict .Values.config.hosts }}
{{- $heartbeat := get $hosts "heartbeat_interval_sec" | default 10 | int }}
{{- $lost := get $hosts "lost_after_sec" | default 30 | int }}
{{- if lt $lost $heartbeat }}
{{- fail (printf "\n\nconfig.hosts.lost_after_sec is %d and config.hosts.heartbeat_interval_sec %d: the first may not be less." $lost $heartbeat) }}
{{- end }}
{{- $credentials := default dict .Values.config.credentials }}
{{- $rotate := get $credentials "rotate_before_sec" | default 300 | int }}
{{- $ttl := get $credentials "ttl_sec" }}
{{- $ttl = ternary 86400 $ttl (has (kindOf $ttl) (list "invalid" "string")) | int }}
{{- if and (gt $ttl 0) (lt $ttl (mul 2 $rotate | int)) }}
{{- fail (printf "\n\nconfig.credentials.ttl_sec is %d and config.credentials.rotate_before_sec %d: the first is 0, or twice the second at least." $ttl $rotate) }}
{{- end }}
{{- end }}

{{/* What the runtime would refuse once the pod starts, and the schema does not see. */}}
{{- define "arcpd.checkCredentials" -}}
{{- $credentials := default dict .Values.config.credentials }}
{{- $provisioner := get $credentials "provisioner" | default "" }}
{{- $masterKey := .Values.secrets.masterKey.existingSecret }}
{{- if eq $provisioner "litellm" }}
{{- if not $masterKey }}
{{- fail "\n\nconfig.credentials.provisioner is litellm: give its master key in secrets.masterKey.existingSecret." }}
{{- end }}
{{- if and $credentials.url (not (regexMatch "^https?://([-a-zA-Z0-9._]+|\\[[0-9a-fA-F:.]+\\])(:[1-9][0-9]{0,4})?(/[!-~]*)?$" $credentials.url)) }}
{{- fail "\n\nconfig.credentials.url: give http://host:port or https://host:port." }}
{{- end }}
{{- if gt (include "arcpd.portOf" (default "" $credentials.url) | int) 65535 }}
{{- fail "\n\nconfig.credentials.url: the port is more than 65535." }}
{{- end }}
{{- if and (hasPrefix "http:" (default "" $credentials.url)) (not (regexMatch "^http://(localhost|127\\.0\\.0\\.1|\\[::1\\])([:/]|$)" $credentials.url)) }}
{{- fail "\n\nconfig.credentials.url: the runtime sends its master key by https only; give https://host:port, and where its certificate is of an authority of yours config.credentials.ca_file, a file that extraVolumes brings." }}
{{- end }}
{{- if not (and $credentials.url $credentials.models) }}
{{- fail "\n\nconfig.credentials.provisioner is litellm: give config.credentials.url, and in config.credentials.models the names of the gateway's models that jobs may use." }}
{{- end }}
{{- else if $provisioner }}
{{- if not $credentials.command }}
{{- fail "\n\nconfig.credentials.provisioner is command: give config.credentials.command." }}
{{- end }}
{{- if or $credentials.url $masterKey }}
{{- fail "\n\nconfig.credentials.url and secrets.masterKey are for config.credentials.provisioner litellm, and it is command." }}
{{- end }}
{{- else if or $credentials.url $credentials.command }}
{{- fail "\n\nconfig.credentials.provisioner is missing: set it to litellm or command." }}
{{- end }}
{{- end }}

{{- define "arcpd.checkObserving" -}}
{{- $v := .Values }}
{{- if and $v.serviceMonitor.enabled $v.podMonitor.enabled }}
{{- fail "\n\nserviceMonitor and podMonitor: enable one of them, or every figure is there twice." }}
{{- end }}
{{- range $value, $file := dict "prometheusRule" "files/alerts.yaml" "dashboard" "files/dashboard.json" }}
{{- if and (get $v $value).enabled (not ($.Files.Get $file)) }}
{{- fail (printf "\n\n%s.enabled: this chart was packed without %s." $value $file) }}
{{- end }}
{{- end }}
{{- range splitList "," $v.logLevel }}
{{- $level := trim . | lower }}
{{- if and (regexMatch "^[a-z]+$" $level) (not (has $level (list "off" "error" "warn" "info" "debug" "trace"))) }}
{{- fail (printf "\n\nlogLevel has %s, which is no level: give off, error, warn, info, debug or trace, also of a part, as in info,arcpd=debug." $level) }}
{{- end }}
{{- end }}
{{- /* Never says the URL: somebody may have put a password there. */}}
{{- with $v.otlp.endpoint }}
{{- if contains "@" (regexFind "^[a-z]+://[^/?#]*" .) }}
{{- fail "\n\notlp.endpoint: no user name or password goes there, it would be seen; give OTEL_EXPORTER_OTLP_HEADERS by extraEnv, from a secret." }}
{{- end }}
{{- if not (regexMatch "^https?://([-a-zA-Z0-9._]+|\\[[0-9a-fA-F:.]+\\])(:[1-9][0-9]{0,4})?([/?#][!-~]*)?$" .) }}
{{- fail "\n\notlp.endpoint: give http://host:port or https://host:port." }}
{{- end }}
{{- if gt (include "arcpd.portOf" . | int) 65535 }}
{{- fail "\n\notlp.endpoint: the port is more than 65535." }}
{{- end }}
{{- end }}
{{- end }}
