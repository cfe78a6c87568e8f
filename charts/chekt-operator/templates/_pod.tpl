{{/*
The one Pod template of Deployment and StatefulSet: the controller, and the receiver as its native sidecar. So the
receiver is there before the controller starts and after it has ended, and deliveries are answered meanwhile.
*/}}
{{- define "chekt-operator.pod" -}}
metadata:
  labels:
    {{- include "chekt-operator.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: controller
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "chekt-operator.serviceAccountName" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  terminationGracePeriodSeconds: 60
  initContainers:
    - name: receiver
      image: {{ include "chekt-operator.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      restartPolicy: Always
      args:
        {{- include "chekt-operator.receiver.args" . | nindent 8 }}
      {{- with .Values.receiver.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: webhooks
          containerPort: {{ .Values.receiver.port }}
        - name: receiver-ops
          containerPort: {{ .Values.receiver.opsPort }}
      # Of its process, not of its being ready: the controller starts only after this one, and hands out the token
      # without which the receiver is not ready.
      startupProbe:
        httpGet:
          path: /healthz
          port: receiver-ops
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        httpGet:
          path: /healthz
          port: receiver-ops
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet:
          path: /readyz
          port: receiver-ops
        periodSeconds: 5
        timeoutSeconds: 2
        failureThreshold: 2
      resources:
        {{- toYaml .Values.receiver.resources | nindent 8 }}
      securityContext:
        {{- include "chekt-operator.securityContext" . | nindent 8 }}
      volumeMounts:
        - name: journal
          mountPath: {{ .Values.receiver.journal.dir }}
        - name: token
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
        {{- with .Values.receiver.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  containers:
    - name: controller
      image: {{ include "chekt-operator.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        {{- include "chekt-operator.controller.args" . | nindent 8 }}
      {{- with .Values.controller.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: controller-ops
          containerPort: {{ .Values.controller.opsPort }}
      startupProbe:
        httpGet:
          path: /readyz
          port: controller-ops
        periodSeconds: 2
        failureThreshold: 150
      livenessProbe:
        httpGet:
          path: /healthz
          port: controller-ops
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet:
          path: /healthz
          port: controller-ops
        periodSeconds: 10
        timeoutSeconds: 5
      resources:
        {{- toYaml .Values.controller.resources | nindent 8 }}
      securityContext:
        {{- include "chekt-operator.securityContext" . | nindent 8 }}
      volumeMounts:
        - name: token
          mountPath: /var/run/secrets/kubernetes.io/serviceaccount
          readOnly: true
        {{- with .Values.controller.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: journal
      emptyDir: {}
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
    {{- with .Values.receiver.cloudEvents.tokenSecret }}
    {{- if .name }}
    - name: cloudevents
      secret:
        secretName: {{ .name }}
        defaultMode: 0440
    {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
