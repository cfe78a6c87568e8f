{{/*
What the objects for Prometheus and Grafana share.
*/}}

{{/* Labels of the metrics Service, by which its monitor finds it and not the Service for deliveries. */}}
{{- define "chekt-operator.metrics.selectorLabels" -}}
app.kubernetes.io/name: {{ include "chekt-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: metrics
{{- end }}

{{- define "chekt-operator.metrics.labels" -}}
{{- include "chekt-operator.labelsWith" (list . "chekt-operator.metrics.selectorLabels") }}
{{- end }}

{{/* Metadata of such an object: (list . "name" .Values.metrics.of). Labels of its own are what a Prometheus selects by. */}}
{{- define "chekt-operator.metrics.metadata" -}}
{{- $root := index . 0 }}
{{- $of := index . 2 }}
name: {{ index . 1 }}
namespace: {{ $of.namespace | default $root.Release.Namespace }}
labels:
  {{- merge (dict) (include "chekt-operator.metrics.selectorLabels" $root | fromYaml) $of.labels (include "chekt-operator.metrics.labels" $root | fromYaml) | toYaml | nindent 2 }}
{{- with $of.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
The endpoints of a monitor. honorLabels: the labels namespace and name of a webhook are the webhook's, and not those of the
Pod that tells of it.
*/}}
{{- define "chekt-operator.metrics.endpoints" -}}
{{- $monitor := . }}
{{- range list "receiver-ops" "controller-ops" }}
- port: {{ . }}
  path: /metrics
  honorLabels: true
  {{- with $monitor.interval }}
  interval: {{ . }}
  {{- end }}
  {{- with $monitor.scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  {{- with $monitor.relabelings }}
  relabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
