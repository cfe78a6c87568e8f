{{/* What `helm test` makes. The operator's Service must not find it. */}}
{{- define "chekt-operator.test.selectorLabels" -}}
app.kubernetes.io/name: {{ include "chekt-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{- define "chekt-operator.test.name" -}}
{{- printf "%s-test" (include "chekt-operator.fullname" .) }}
{{- end }}

{{/*
Metadata of an object that is there only while `helm test` runs: a dict of root, weight, and namespace, which is empty for an
object of the cluster. The Pod stays until the next test, for its log.
*/}}
{{- define "chekt-operator.test.metadata" -}}
{{- $root := .root }}
{{- $name := include "chekt-operator.test.name" $root }}
{{- if .namespace }}
name: {{ $name }}
namespace: {{ .namespace }}
{{- else }}
name: {{ printf "%s-%s" $root.Release.Namespace $name | trunc 253 }}
{{- end }}
labels:
  {{- include "chekt-operator.labelsWith" (list $root "chekt-operator.test.selectorLabels") | nindent 2 }}
annotations:
  helm.sh/hook: test
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: {{ ternary "before-hook-creation" "before-hook-creation,hook-succeeded" (eq .weight "0") }}
{{- end }}

{{/* A role and its binding, with the same dict and rules. */}}
{{- define "chekt-operator.test.granted" -}}
{{- $of := ternary "Cluster" "" (empty .namespace) }}
{{- $metadata := include "chekt-operator.test.metadata" (merge (dict "weight" "-1") .) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $of }}Role
metadata:
  {{- $metadata | trim | nindent 2 }}
rules:
  {{- .rules | trim | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $of }}RoleBinding
metadata:
  {{- $metadata | trim | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $of }}Role
  name: {{ (fromYaml $metadata).name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "chekt-operator.test.name" .root }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}

{{/* To list what is looked after. */}}
{{- define "chekt-operator.test.rules.all" -}}
- apiGroups: [chekt.com]
  resources: [chektaccounts, chektwebhooks]
  verbs: [list]
{{- end }}

{{/* To compare the definitions. */}}
{{- define "chekt-operator.test.rules.definitions" -}}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [chektaccounts.chekt.com, chektwebhooks.chekt.com]
  verbs: [get]
{{- end }}

{{/* To see that somebody leads. */}}
{{- define "chekt-operator.test.rules.lease" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ .Values.controller.leaseName | quote }}]
  verbs: [get]
{{- end }}

{{/* To follow a delivery of one webhook, and to ask for it. The names of Events are not known before. */}}
{{- define "chekt-operator.test.rules.webhook" -}}
- apiGroups: [chekt.com]
  resources: [chektwebhooks]
  resourceNames: [{{ . | quote }}]
  verbs: [get, patch]
- apiGroups: [chekt.com]
  resources: [chektaccounts]
  verbs: [get]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [list]
{{- end }}
