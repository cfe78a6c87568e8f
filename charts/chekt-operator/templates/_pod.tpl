{{/*
The one Pod template of Deployment and StatefulSet: the controller, and the receiver as its native sidecar. So the
receiver is there before the controller starts and until after it has ended, and deliveries are answered meanwhile.
*/}}
{{- define "chekt-operator.pod" -}}
{{- include "chekt-operator.validate" . -}}
metadata:
  labels:
    {{- include "chekt-operator.podLabels" (list . "chekt-operator.selectorLabels") | nindent 4 }}
  annotations:
    {{- merge (dict) .Values.podAnnotations (dict "kubectl.kubernetes.io/default-container" "controller") | toYaml | nindent 4 }}
spec:
  serviceAccountName: {{ include "chekt-operator.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with include "chekt-operator.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ include "chekt-operator.terminationGracePeriodSeconds" . }}
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  initContainers:
    - name: receiver
      image: {{ include "chekt-operator.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      restartPolicy: Always
      args:
        {{- include "chekt-operator.receiver.args" . | trim | nindent 8 }}
      {{- with include "chekt-operator.env" (list . .Values.receiver.extraEnv) | trim }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      ports:
        - name: webhooks
          containerPort: {{ int .Values.receiver.port }}
          protocol: TCP
        - name: receiver-ops
          containerPort: {{ int .Values.receiver.opsPort }}
          protocol: TCP
      # Of the process, not of its being ready: the controller starts only after this one, and hands out the token
      # without which the receiver is not ready.
      startupProbe:
        {{- include "chekt-operator.probe" (list "/healthz" "receiver-ops" .Values.receiver.startupProbe) | nindent 8 }}
      livenessProbe:
        {{- include "chekt-operator.probe" (list "/healthz" "receiver-ops" .Values.receiver.livenessProbe) | nindent 8 }}
      readinessProbe:
        {{- include "chekt-operator.probe" (list "/readyz" "receiver-ops" .Values.receiver.readinessProbe) | nindent 8 }}
      {{- with .Values.receiver.preStopSleepSeconds }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ int . }}
      {{- end }}
      {{- with .Values.receiver.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: journal
          mountPath: {{ .Values.receiver.journal.dir }}
        - name: receiver-credentials
          mountPath: /var/run/secrets/kubernetes.io/serviceaccount
          readOnly: true
        {{- if .Values.receiver.tls.secretName }}
        - name: tls
          mountPath: /etc/chekt-operator/tls
          readOnly: true
        {{- end }}
        {{- if .Values.receiver.cloudEvents.tokenSecret.name }}
        - name: cloudevents
          mountPath: /etc/chekt-operator/cloudevents
          readOnly: true
        {{- end }}
        {{- with include "chekt-operator.privateCA.mount" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with .Values.receiver.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  containers:
    - name: controller
      image: {{ include "chekt-operator.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        {{- include "chekt-operator.controller.args" . | trim | nindent 8 }}
      env:
        # The receiver's token ends with this Pod.
        - name: CHEKT_POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: CHEKT_POD_UID
          valueFrom:
            fieldRef:
              fieldPath: metadata.uid
        {{- with include "chekt-operator.env" (list . .Values.controller.extraEnv) | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      ports:
        - name: controller-ops
          containerPort: {{ int .Values.controller.opsPort }}
          protocol: TCP
      startupProbe:
        {{- include "chekt-operator.probe" (list "/readyz" "controller-ops" .Values.controller.startupProbe) | nindent 8 }}
      livenessProbe:
        {{- include "chekt-operator.probe" (list "/healthz" "controller-ops" .Values.controller.livenessProbe) | nindent 8 }}
      # Not /readyz: only ready Pods get deliveries, and a controller that has lost sight of the API server must not keep
      # alarms from the receiver beside it.
      readinessProbe:
        {{- include "chekt-operator.probe" (list "/healthz" "controller-ops" .Values.controller.readinessProbe) | nindent 8 }}
      {{- with .Values.controller.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: token
          mountPath: /var/run/secrets/kubernetes.io/serviceaccount
          readOnly: true
        - name: receiver-credentials
          mountPath: /var/run/chekt-operator/receiver-credentials
        {{- with include "chekt-operator.privateCA.mount" . | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with .Values.controller.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- if not .Values.persistence.enabled }}
    - name: journal
      emptyDir:
        sizeLimit: {{ .Values.persistence.emptyDirSizeLimit }}
    {{- end }}
    # Written by the controller: the short-lived token of the lesser service account.
    - name: receiver-credentials
      emptyDir:
        medium: Memory
        sizeLimit: 1Mi
    - name: token
      projected:
        defaultMode: 0440
        sources:
          - serviceAccountToken:
              path: token
              expirationSeconds: 3600
          - configMap:
              name: kube-root-ca.crt
              items:
                - key: ca.crt
                  path: ca.crt
          - downwardAPI:
              items:
                - path: namespace
                  fieldRef:
                    fieldPath: metadata.namespace
    {{- with .Values.receiver.tls.secretName }}
    - name: tls
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.receiver.cloudEvents.tokenSecret.name }}
    - name: cloudevents
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.privateCA }}
    {{- if or .configMapName .secretName }}
    - name: private-ca
      {{- if .configMapName }}
      configMap:
        name: {{ .configMapName }}
      {{- else }}
      secret:
        secretName: {{ .secretName }}
      {{- end }}
        defaultMode: 0444
        {{- with .key }}
        items:
          - key: {{ . }}
            path: {{ . }}
        {{- end }}
    {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* Where Pods may run, and what they need from the node. */}}
{{- define "chekt-operator.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range .Values.topologySpreadConstraints }}
  - {{ toYaml . | nindent 4 | trim }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- include "chekt-operator.selectorLabels" $ | nindent 8 }}
    {{- end }}
  {{- end }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A probe: (list path port values). */}}
{{- define "chekt-operator.probe" -}}
httpGet:
  path: {{ index . 0 }}
  port: {{ index . 1 }}
{{ toYaml (index . 2) }}
{{- end }}

{{/* The environment of a container: (list . extraEnv). */}}
{{- define "chekt-operator.env" -}}
{{- $root := index . 0 }}
{{- with $root.Values.proxy }}
{{- if or .https .http }}
{{- with .https }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .http }}
- name: HTTP_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .noProxy }}
- name: NO_PROXY
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if or $root.Values.privateCA.configMapName $root.Values.privateCA.secretName }}
# The folder is read beside the file, not in its place: public roots hold as well.
- name: SSL_CERT_FILE
  value: /etc/ssl/certs/ca-certificates.crt
- name: SSL_CERT_DIR
  value: /etc/chekt-operator/ca
{{- end }}
{{- with index . 1 }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "chekt-operator.privateCA.mount" -}}
{{- if or .Values.privateCA.configMapName .Values.privateCA.secretName }}
- name: private-ca
  mountPath: /etc/chekt-operator/ca
  readOnly: true
{{- end }}
{{- end }}
