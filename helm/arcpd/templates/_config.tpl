{{/*
The configuration file. Helm's own toToml writes every number of a values file with a
decimal point, which is not an integer.
*/}}
{{- define "arcpd.config" -}}
{{- $v := .Values }}
{{- $file := deepCopy $v.config }}
{{- $_ := set $file "listen" (printf "%s:%d" $v.bindAddress (int $v.containerPorts.grpc)) }}
{{- $_ := set $file "admin_listen" (printf "%s:%d" $v.bindAddress (int $v.containerPorts.admin)) }}
{{- $_ := set $file "data_dir" "/var/lib/arcpd/store" }}
{{- $_ := set $file "tokens_file" "/etc/arcpd/tokens/tokens" }}
{{- if $v.tls.enabled }}
{{- $_ := set $file "tls_cert" "/etc/arcpd/tls/tls.crt" }}
{{- $_ := set $file "tls_key" "/etc/arcpd/tls/tls.key" }}
{{- if $v.tls.clientCA.existingSecret }}
{{- $_ := set $file "tls_client_ca" "/etc/arcpd/client-ca/ca.crt" }}
{{- end }}
{{- end }}
{{- if $v.secrets.policy.existingSecret }}
{{- $_ := set $file "policy_file" "/etc/arcpd/policy/policy.toml" }}
{{- end }}
{{- $credentials := default dict $file.credentials }}
{{- if $v.secrets.encryptionKey.existingSecret }}
{{- $_ := set $credentials "encryption_key_file" "/etc/arcpd/encryption-key/key" }}
{{- end }}
{{- if $v.secrets.masterKey.existingSecret }}
{{- $_ := set $credentials "master_key_file" "/etc/arcpd/master-key/key" }}
{{- end }}
{{- $_ := set $file "credentials" $credentials }}
{{- if include "arcpd.isCell" . }}
{{- $_ := set $file "cluster" (merge (include "arcpd.cellSettings" . | fromYaml) (default dict $file.cluster)) }}
{{- end }}
{{- $limits := default dict $file.limits }}
{{- if and (include "arcpd.isCell" .) (kindIs "invalid" $limits.connection_age_max_sec) }}
{{- /* Or a replica that comes back has no sessions until others lose theirs. */}}
{{- $_ := set $file "limits" (set $limits "connection_age_max_sec" 3600) }}
{{- end }}
{{- range $key, $value := $file }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ include "arcpd.toml" $value }}
{{- end }}
{{- end }}
{{- range $section, $values := $file }}
{{- if and (kindIs "map" $values) $values }}

[{{ $section }}]
{{- range $key, $value := $values }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "arcpd.toml" $value }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* One value, on one line. */}}
{{- define "arcpd.toml" -}}
{{- if kindIs "map" . -}}
{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }},{{ end }} {{ toJson $key }} = {{ include "arcpd.toml" (get $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{- range $i, $item := . }}{{ if $i }}, {{ end }}{{ include "arcpd.toml" $item }}{{ end }}]
{{- else if or (kindIs "float64" .) (kindIs "int64" .) (kindIs "int" .) -}}
{{ printf "%d" (int64 .) }}
{{- else if kindIs "bool" . -}}
{{ . }}
{{- else -}}
{{ toString . | toJson }}
{{- end }}
{{- end }}
