{{/*
What controller and receiver may do, and nothing else. docs/rbac.md says of each verb why it is needed and what fails without
it, and tests/shipped/privilege.rs takes each away to see that this is so.
*/}}

{{/* The controller, in the namespaces that are looked after. */}}
{{- define "chekt-operator.rules.controller" -}}
- apiGroups: [chekt.com]
  resources: [chektaccounts, chektwebhooks]
  verbs: [get, list, watch, patch]
- apiGroups: [chekt.com]
  resources: [chektaccounts/status, chektwebhooks/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [secrets]
  {{- with .Values.rbac.secretNames }}
  resourceNames:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* The controller, in the cluster. */}}
{{- define "chekt-operator.rules.controller.cluster" -}}
{{- if .Values.rbac.definition }}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [chektwebhooks.chekt.com]
  verbs: [get]
{{- end }}
{{- if and .Values.rbac.namespaces (not .Values.watchNamespaces) }}
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
{{- end }}
{{- end }}

{{/* The controller, in its own namespace. No rule can name an object that is to be made, nor one of many in a list. */}}
{{- define "chekt-operator.rules.controller.own" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update, delete]
- apiGroups: [""]
  resources: [serviceaccounts/token]
  resourceNames: [{{ include "chekt-operator.receiver.serviceAccountName" . | quote }}]
  verbs: [create]
{{- if .Values.controller.leaderElect }}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ .Values.controller.leaseName | quote }}]
  verbs: [get, update]
{{- end }}
{{- end }}

{{/* The receiver, in the namespaces that are looked after. */}}
{{- define "chekt-operator.rules.receiver" -}}
- apiGroups: [chekt.com]
  resources: [chektwebhooks]
  verbs: [list, watch]
- apiGroups: [chekt.com]
  resources: [chektwebhooks/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{/* The receiver, in the operator's namespace: the keyrings. */}}
{{- define "chekt-operator.rules.receiver.own" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [list, watch]
{{- end }}

{{/* Names of what is in no namespace hold that of the release: there may be another one of its name. */}}
{{- define "chekt-operator.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "chekt-operator.fullname" .) }}
{{- end }}

{{/*
A role and its binding: (dict "root" $ "namespace" "" "name" n "account" a "rules" text). Without a namespace they are of the
cluster; without rules there are none.
*/}}
{{- define "chekt-operator.granted" -}}
{{- $of := ternary "Cluster" "" (empty .namespace) }}
{{- with .rules | trim }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $of }}Role
metadata:
  name: {{ $.name }}
  {{- with $.namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "chekt-operator.labels" $.root | nindent 4 }}
rules:
  {{- . | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $of }}RoleBinding
metadata:
  name: {{ $.name }}
  {{- with $.namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "chekt-operator.labels" $.root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $of }}Role
  name: {{ $.name }}
subjects:
  - kind: ServiceAccount
    name: {{ $.account }}
    namespace: {{ $.root.Release.Namespace }}
{{- end }}
{{- end }}
