{{/*
The flags of the two processes. A value that is empty is not passed, so that the program's own default holds;
tests/shipped/values.rs sees to it that every flag is here.
*/}}

{{/* One flag: (list "lease-name" value). A list becomes one flag for each item; false and empty become nothing. */}}
{{- define "chekt-operator.flag" -}}
{{- $name := index . 0 -}}
{{- $value := index . 1 -}}
{{- if kindIs "slice" $value -}}
{{- range $value }}
- {{ printf "--%s=%v" $name . | quote }}
{{- end }}
{{- else if kindIs "bool" $value -}}
{{- if $value }}
- {{ printf "--%s" $name | quote }}
{{- end }}
{{- else if kindIs "float64" $value }}
- {{ printf "--%s=%d" $name (int64 $value) | quote }}
{{- else if not (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
- {{ printf "--%s=%v" $name $value | quote }}
{{- end -}}
{{- end }}

{{- define "chekt-operator.controller.args" -}}
- controller
{{- $c := .Values.controller }}
{{- include "chekt-operator.flag" (list "log-format" .Values.logging.format) }}
{{- include "chekt-operator.flag" (list "log" ($c.logLevel | default .Values.logging.level)) }}
{{- include "chekt-operator.flag" (list "public-url" (include "chekt-operator.publicUrl" .)) }}
{{- include "chekt-operator.flag" (list "operator-namespace" .Release.Namespace) }}
{{- include "chekt-operator.flag" (list "watch-namespace" .Values.watchNamespaces) }}
{{- include "chekt-operator.flag" (list "secret-name" .Values.rbac.secretNames) }}
{{- include "chekt-operator.flag" (list "default-account" $c.defaultAccount) }}
{{- include "chekt-operator.flag" (list "ops-address" (printf "[::]:%d" (int $c.opsPort))) }}
{{- include "chekt-operator.flag" (list "leader-elect" (toString $c.leaderElect)) }}
{{- include "chekt-operator.flag" (list "lease-name" $c.leaseName) }}
{{- include "chekt-operator.flag" (list "lease-duration" $c.leaseDuration) }}
{{- include "chekt-operator.flag" (list "orphan-after" $c.orphanAfter) }}
{{- include "chekt-operator.flag" (list "concurrency" $c.concurrency) }}
{{- include "chekt-operator.flag" (list "metrics-webhooks" $c.metricsWebhooks) }}
{{- include "chekt-operator.flag" (list "receiver-service-account" (include "chekt-operator.receiver.serviceAccountName" .)) }}
{{- include "chekt-operator.flag" (list "receiver-credentials" "/var/run/chekt-operator/receiver-credentials") }}
{{- include "chekt-operator.flag" (list "allow-insecure-partner" (or $c.allowInsecurePartner .Values.sandbox.enabled)) }}
{{- include "chekt-operator.flag" (list "allow-insecure-public-url" (or $c.allowInsecurePublicUrl (and .Values.sandbox.enabled (not .Values.publicUrl) (eq (include "chekt-operator.scheme" .) "http")))) }}
{{- with $c.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "chekt-operator.receiver.args" -}}
- receiver
{{- $r := .Values.receiver }}
{{- include "chekt-operator.flag" (list "log-format" .Values.logging.format) }}
{{- include "chekt-operator.flag" (list "log" ($r.logLevel | default .Values.logging.level)) }}
{{- include "chekt-operator.flag" (list "listen" (printf "[::]:%d" (int $r.port))) }}
{{- include "chekt-operator.flag" (list "ops-address" (printf "[::]:%d" (int $r.opsPort))) }}
{{- include "chekt-operator.flag" (list "journal" $r.journal.dir) }}
{{- include "chekt-operator.flag" (list "journal-max-records" $r.journal.maxRecords) }}
{{- include "chekt-operator.flag" (list "journal-max-mib" $r.journal.maxMib) }}
{{- include "chekt-operator.flag" (list "operator-namespace" .Release.Namespace) }}
{{- include "chekt-operator.flag" (list "watch-namespace" .Values.watchNamespaces) }}
{{- include "chekt-operator.flag" (list "events-per-second" $r.eventsPerSecond) }}
{{- include "chekt-operator.flag" (list "events-burst" $r.eventsBurst) }}
{{- include "chekt-operator.flag" (list "max-connections" $r.maxConnections) }}
{{- include "chekt-operator.flag" (list "max-connections-per-peer" $r.maxConnectionsPerPeer) }}
{{- include "chekt-operator.flag" (list "allow-from" $r.allowFrom) }}
{{- include "chekt-operator.flag" (list "trusted-proxy" $r.trustedProxies) }}
{{- if $r.tls.secretName }}
{{- include "chekt-operator.flag" (list "tls-cert-file" (printf "/etc/chekt-operator/tls/%s" $r.tls.certKey)) }}
{{- include "chekt-operator.flag" (list "tls-key-file" (printf "/etc/chekt-operator/tls/%s" $r.tls.privateKeyKey)) }}
{{- end }}
{{- include "chekt-operator.flag" (list "drain-delay" $r.drainDelay) }}
{{- include "chekt-operator.flag" (list "drain-timeout" $r.drainTimeout) }}
{{- include "chekt-operator.flag" (list "cloudevents-url" $r.cloudEvents.url) }}
{{- if $r.cloudEvents.url }}
{{- include "chekt-operator.flag" (list "cloudevents-mode" $r.cloudEvents.mode) }}
{{- if $r.cloudEvents.tokenSecret.name }}
{{- include "chekt-operator.flag" (list "cloudevents-token-file" (printf "/etc/chekt-operator/cloudevents/%s" $r.cloudEvents.tokenSecret.key)) }}
{{- end }}
{{- include "chekt-operator.flag" (list "allow-insecure-cloudevents" $r.cloudEvents.allowInsecure) }}
{{- end }}
{{- include "chekt-operator.flag" (list "instance" $r.instance) }}
{{- include "chekt-operator.flag" (list "kubernetes-credentials" "/var/run/secrets/kubernetes.io/serviceaccount") }}
{{- with $r.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end }}
