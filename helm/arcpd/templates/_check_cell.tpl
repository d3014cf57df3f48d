{{/* What cannot be of several replicas. Part of arcpd.check. */}}
{{- define "arcpd.checkCell" -}}
{{- $v := .Values }}
{{- $nats := $v.cluster.nats }}
{{- if $nats.url }}
{{- include "arcpd.checkServers" . }}
{{- range $key, $value := include "arcpd.cellSettings" . | fromYaml }}
{{- if not (kindIs "invalid" (index (default dict $v.config.cluster) $key)) }}
{{- fail (printf "\n\nconfig.cluster.%s: cluster.nats.url makes this a cell, and then the chart writes this setting; leave it out there and set it under cluster." $key) }}
{{- end }}
{{- end }}
{{- if and $nats.existingSecret (eq $nats.login "password") (not $nats.user) }}
{{- fail "\n\ncluster.nats.user is empty: cluster.nats.login is password, so say whose password it is." }}
{{- end }}
{{- if and (get (default dict $v.config.credentials) "provisioner") (not $v.secrets.encryptionKey.existingSecret) }}
{{- fail "\n\nconfig.credentials.provisioner in a cell needs secrets.encryptionKey.existingSecret: credentials are sealed in the log that all replicas read, and each opens them with the same key." }}
{{- end }}
{{- if $v.persistence.existingClaim }}
{{- fail "\n\npersistence.existingClaim is one claim, and in a cell each replica has a volume of its own: leave it out. For a store that was one process's, see \"From one pod to a cell\" in docs/kubernetes.md." }}
{{- end }}
{{- else if $v.config.cluster }}
{{- fail "\n\nconfig.cluster: cluster.nats.url is empty, so this is one process. For a cell set cluster.nats.url and what else is under cluster; config.cluster is for files that extraVolumes bring." }}
{{- else if or $nats.existingSecret $nats.tls.ca.existingSecret $nats.tls.clientCertificate.existingSecret }}
{{- fail "\n\ncluster.nats: there is a secret, but cluster.nats.url is empty: set it to the servers, as in nats://nats.nats.svc:4222." }}
{{- end }}
{{- if and $v.backup.enabled (not $nats.url) }}
{{- fail "\n\nbackup.enabled needs a cell, whose log another process can read. The store of one pod is that pod's alone: take snapshots of its volume (docs/kubernetes.md, \"Back up\")." }}
{{- end }}
{{- $away := $v.podDisruptionBudget.maxUnavailable }}
{{- $scaled := or $v.autoscaling.hpa.enabled $v.autoscaling.keda.enabled }}
{{- $fewest := ternary $v.autoscaling.minReplicas $v.replicas $scaled | int }}
{{- if and $nats.url (gt $fewest 1) $away (ge (int $away) $fewest) }}
{{- fail (printf "\n\npodDisruptionBudget.maxUnavailable is %d of %d replicas: all of them could be away at once. Leave it at 1." (int $away) $fewest) }}
{{- end }}
{{- include "arcpd.checkKind" . }}
{{- include "arcpd.checkCellName" . }}
{{- end }}

{{/* Never says a URL: somebody may have put a password there. */}}
{{- define "arcpd.checkServers" -}}
{{- $schemes := list }}
{{- range splitList "," .Values.cluster.nats.url }}
{{- $url := trim . }}
{{- if contains "@" $url }}
{{- fail "\n\ncluster.nats.url: no user name, password or token goes there, it would be seen; give cluster.nats.existingSecret." }}
{{- end }}
{{- if not (regexMatch "^(nats|tls)://([-a-zA-Z0-9._]+|\\[[0-9a-fA-F:.]+\\])(:[1-9][0-9]{0,4})?/?$" $url) }}
{{- fail "\n\ncluster.nats.url: give nats://host:port or tls://host:port, several separated by commas." }}
{{- end }}
{{- if gt (regexFind ":[0-9]+/?$" $url | trimPrefix ":" | trimSuffix "/" | int) 65535 }}
{{- fail "\n\ncluster.nats.url: a port is more than 65535." }}
{{- end }}
{{- $schemes = append $schemes (splitList ":" $url | first) }}
{{- end }}
{{- if gt (uniq $schemes | len) 1 }}
{{- fail "\n\ncluster.nats.url: give tls:// for all servers or for none." }}
{{- end }}
{{- end }}

{{/* A store is of one process or of a cell, and neither takes the other's (nor does a StatefulSet
turn into the other). Seen where the cluster can be asked; without, the API server refuses. */}}
{{- define "arcpd.checkKind" -}}
{{- $there := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "arcpd.fullname" .) | default dict }}
{{- $was := dig "spec" "podManagementPolicy" "" $there }}
{{- if and (eq $was "Parallel") (not (include "arcpd.isCell" .)) }}
{{- fail "\n\nThis release is a cell, and without cluster.nats.url it would be one process with a store of its own, which refuses a replica's. Set cluster.nats.url; to move what is there, see \"From one pod to a cell\" in docs/kubernetes.md." }}
{{- else if and (eq $was "OrderedReady") (include "arcpd.isCell" .) }}
{{- fail "\n\nThis release is one pod with a store of its own, which a cell refuses. Install the cell as another release and move what is there: \"From one pod to a cell\" in docs/kubernetes.md." }}
{{- end }}
{{- end }}

{{/* Another name is another stream, which begins empty. Seen where the cluster can be asked, in the configuration that
is installed. */}}
{{- define "arcpd.checkCellName" -}}
{{- $there := lookup "v1" "ConfigMap" .Release.Namespace (include "arcpd.fullname" .) | default dict }}
{{- $was := regexFind "(?m)^name = \"[-_a-zA-Z0-9]+\"$" (dig "data" "arcpd.toml" "" $there) | trimPrefix "name = \"" | trimSuffix "\"" }}
{{- $name := include "arcpd.cellName" . }}
{{- if and $was (include "arcpd.isCell" .) (ne $was $name) (ne $was .Values.cluster.replaces) }}
{{- fail (printf "\n\ncluster.name: this release is the cell %s, and as %s it would have another stream at NATS, without any of the sessions and jobs of %s; its replicas' volumes are of %s and would be refused. Set cluster.name to %s. To begin anew knowingly set cluster.replaces to %s, and see \"Another name\" in docs/kubernetes.md." $was $name $was $was $was $was) }}
{{- end }}
{{- end }}

{{- define "arcpd.checkAutoscaling" -}}
{{- $scaling := .Values.autoscaling }}
{{- $hpa := $scaling.hpa }}
{{- $keda := $scaling.keda }}
{{- if and $hpa.enabled $keda.enabled }}
{{- fail "\n\nautoscaling.hpa and autoscaling.keda: enable one of them. KEDA makes a HorizontalPodAutoscaler of its own, and two would pull at the same pods; a cpu trigger goes into autoscaling.keda.triggers." }}
{{- end }}
{{- if or $hpa.enabled $keda.enabled }}
{{- if not (include "arcpd.isCell" .) }}
{{- fail "\n\nautoscaling needs a cell: one process at a time writes a store. Set cluster.nats.url (docs/kubernetes.md, \"Several replicas\")." }}
{{- end }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
{{- fail (printf "\n\nautoscaling.minReplicas is %d and autoscaling.maxReplicas %d: the first may not be more." (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
{{- end }}
{{- end }}
{{- if $hpa.enabled }}
{{- if not (or $hpa.cpuPercent $hpa.memoryPercent $hpa.metrics) }}
{{- fail "\n\nautoscaling.hpa has nothing to go by: set cpuPercent, memoryPercent or metrics." }}
{{- end }}
{{- range $resource := list "cpu" "memory" }}
{{- $percent := get $hpa (printf "%sPercent" $resource) }}
{{- if and $percent (not (dig "requests" $resource "" (default dict $.Values.resources))) }}
{{- fail (printf "\n\nautoscaling.hpa.%sPercent is of resources.requests.%s, which is not set." $resource $resource) }}
{{- end }}
{{- end }}
{{- end }}
{{- /* Never says the URL, as of otlp.endpoint. */}}
{{- if contains "@" (regexFind "^[a-z]+://[^/?#]*" $keda.serverAddress) }}
{{- fail "\n\nautoscaling.keda.serverAddress: no user name or password goes there, it would be seen; give autoscaling.keda.authenticationRef." }}
{{- end }}
{{- if and $keda.enabled (not $keda.serverAddress) (not $keda.triggers) }}
{{- fail "\n\nautoscaling.keda has nothing to go by: set serverAddress to a Prometheus, as in http://prometheus.monitoring.svc:9090, or triggers." }}
{{- end }}
{{- end }}
