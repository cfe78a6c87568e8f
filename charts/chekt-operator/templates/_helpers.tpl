{{/*
Names, labels and addresses that several templates share.
*/}}

{{- define "chekt-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 52 characters, so that what is hung on still fits into 63: -receiver, -headless, and -0 of a Pod. */}}
{{- define "chekt-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* What never changes between versions, for a selector cannot be changed. */}}
{{- define "chekt-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "chekt-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* The same of the sandbox, which the operator's Service must not find. */}}
{{- define "chekt-operator.sandbox.selectorLabels" -}}
app.kubernetes.io/name: {{ include "chekt-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: sandbox
{{- end }}

{{/*
Labels of an object: (list . "chekt-operator.selectorLabels"). What selects wins over what users write, and what users
write over the rest.
*/}}
{{- define "chekt-operator.labelsWith" -}}
{{- $root := index . 0 }}
{{- $chart := printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- $rest := dict "helm.sh/chart" $chart "app.kubernetes.io/version" $root.Chart.AppVersion "app.kubernetes.io/managed-by" $root.Release.Service "app.kubernetes.io/part-of" "chekt-operator" }}
{{- $mine := include (index . 1) $root | fromYaml }}
{{- merge (dict) $mine $root.Values.commonLabels $rest | toYaml }}
{{- end }}

{{- define "chekt-operator.labels" -}}
{{- include "chekt-operator.labelsWith" (list . "chekt-operator.selectorLabels") }}
{{- end }}

{{- define "chekt-operator.sandbox.labels" -}}
{{- include "chekt-operator.labelsWith" (list . "chekt-operator.sandbox.selectorLabels") }}
{{- end }}

{{/* Labels of a Pod. Without the chart's version: a new chart around the same program starts nothing anew. */}}
{{- define "chekt-operator.podLabels" -}}
{{- $mine := include (index . 1) (index . 0) | fromYaml }}
{{- $root := index . 0 }}
{{- merge (dict) $mine $root.Values.podLabels $root.Values.commonLabels (dict "app.kubernetes.io/version" $root.Chart.AppVersion "app.kubernetes.io/part-of" "chekt-operator") | toYaml }}
{{- end }}

{{/* The service account of the Pod, and so of the controller. */}}
{{- define "chekt-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "chekt-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "\n\nserviceAccount.create is false: set serviceAccount.name to the service account that the controller is to use.\n" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The lesser service account whose token the receiver is handed. */}}
{{- define "chekt-operator.receiver.serviceAccountName" -}}
{{- if .Values.receiver.serviceAccount.create }}
{{- default (printf "%s-receiver" (include "chekt-operator.fullname" .)) .Values.receiver.serviceAccount.name }}
{{- else }}
{{- required "\n\nreceiver.serviceAccount.create is false: set receiver.serviceAccount.name to the service account that the receiver is to use.\n" .Values.receiver.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "chekt-operator.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{- define "chekt-operator.scheme" -}}
{{- ternary "http" "https" (empty .Values.receiver.tls.secretName) -}}
{{- end }}

{{- define "chekt-operator.servicePort" -}}
{{- .Values.service.port | default (ternary 80 443 (empty .Values.receiver.tls.secretName)) -}}
{{- end }}

{{/* Where the receiver is within the cluster. */}}
{{- define "chekt-operator.serviceUrl" -}}
{{- $scheme := include "chekt-operator.scheme" . -}}
{{- $port := include "chekt-operator.servicePort" . | int -}}
{{- $shown := ternary "" (printf ":%d" $port) (eq $port (ternary 80 443 (eq $scheme "http"))) -}}
{{- printf "%s://%s.%s.svc%s" $scheme (include "chekt-operator.fullname" .) .Release.Namespace $shown -}}
{{- end }}

{{/* Where CHeKT reaches the receiver. The sandbox, which runs beside it, reaches it by its Service. */}}
{{- define "chekt-operator.publicUrl" -}}
{{- if .Values.publicUrl -}}
{{- .Values.publicUrl | trimSuffix "/" -}}
{{- else -}}
{{- include "chekt-operator.serviceUrl" . -}}
{{- end -}}
{{- end }}

{{/* Host and path of the public URL; the path is empty or begins with a slash. */}}
{{- define "chekt-operator.publicHost" -}}
{{- (urlParse (include "chekt-operator.publicUrl" .)).hostname -}}
{{- end }}
{{- define "chekt-operator.publicPath" -}}
{{- (urlParse (include "chekt-operator.publicUrl" .)).path | trimSuffix "/" -}}
{{- end }}

{{/*
The seconds that a Pod can need to end: the controller (20 s of passes, a third of the Lease to resign), and after it the
receiver, which as a native sidecar is told to end only then: what it says of itself in src/receiver/mod.rs.
*/}}
{{- define "chekt-operator.longestEnd" -}}
{{- $r := .Values.receiver -}}
{{- $controller := add 20 (div (add (int .Values.controller.leaseDuration) 2) 3) -}}
{{- $receiver := add (int $r.drainDelay) 6 (int $r.drainTimeout) 4 -}}
{{- add (max $controller (int $r.preStopSleepSeconds)) $receiver -}}
{{- end }}

{{- define "chekt-operator.terminationGracePeriodSeconds" -}}
{{- $longest := include "chekt-operator.longestEnd" . | int -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add $longest 10 -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end }}
