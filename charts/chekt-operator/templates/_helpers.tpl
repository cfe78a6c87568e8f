{{/*
Names and labels, as every chart has them.
*/}}

{{- define "chekt-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 52 characters, so that what is hung on (-receiver, -headless) still fits into a name. */}}
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

{{- define "chekt-operator.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What never changes between versions: a selector cannot be changed. */}}
{{- define "chekt-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "chekt-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "chekt-operator.commonLabels" -}}
helm.sh/chart: {{ include "chekt-operator.chart" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: chekt-operator
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of every object that is the operator's own. */}}
{{- define "chekt-operator.labels" -}}
{{ include "chekt-operator.selectorLabels" . }}
{{ include "chekt-operator.commonLabels" . }}
{{- end }}

{{/* The same for the sandbox, which must not be found by the operator's Service. */}}
{{- define "chekt-operator.sandbox.selectorLabels" -}}
app.kubernetes.io/name: {{ include "chekt-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: sandbox
{{- end }}

{{- define "chekt-operator.sandbox.labels" -}}
{{ include "chekt-operator.sandbox.selectorLabels" . }}
{{ include "chekt-operator.commonLabels" . }}
{{- end }}

{{/* The service account of the Pod, and so of the controller. */}}
{{- define "chekt-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "chekt-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.create is false: set serviceAccount.name to the service account that the controller is to use" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The lesser service account whose token the receiver is handed. */}}
{{- define "chekt-operator.receiver.serviceAccountName" -}}
{{- if .Values.receiver.serviceAccount.create }}
{{- default (printf "%s-receiver" (include "chekt-operator.fullname" .)) .Values.receiver.serviceAccount.name }}
{{- else }}
{{- required "receiver.serviceAccount.create is false: set receiver.serviceAccount.name to the service account that the receiver is to use" .Values.receiver.serviceAccount.name }}
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

{{/* host[:port] of the Service within the cluster, with its scheme. */}}
{{- define "chekt-operator.serviceUrl" -}}
{{- printf "%s://%s.%s.svc" (ternary "https" "http" (ne .Values.receiver.tls.secretName "")) (include "chekt-operator.fullname" .) .Release.Namespace }}
{{- end }}

{{/* Where CHeKT reaches the receiver. The sandbox, which runs beside it, reaches it by its Service. */}}
{{- define "chekt-operator.publicUrl" -}}
{{- if .Values.publicUrl -}}
{{- .Values.publicUrl -}}
{{- else if .Values.sandbox.enabled -}}
{{- include "chekt-operator.serviceUrl" . -}}
{{- else -}}
{{- fail "\n\npublicUrl is not set: it is where CHeKT reaches the receiver from the internet, and the urls of all webhooks begin with it.\nWrite for example\n\n    --set publicUrl=https://alarms.example.com\n\nor, to try things out without CHeKT and within the cluster,\n\n    --set sandbox.enabled=true\n" -}}
{{- end -}}
{{- end }}

{{/* What a container of ours may do: nothing that a process which only talks and writes to one folder needs. */}}
{{- define "chekt-operator.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
