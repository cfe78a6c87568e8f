{{/*
What a schema cannot say, or not in words that help: how values fit together. Each refusal says what to write instead.
*/}}
{{- define "chekt-operator.validate" -}}
{{- $v := .Values -}}
{{- $c := $v.controller -}}
{{- $r := $v.receiver -}}

{{- if not (or $v.publicUrl $v.sandbox.enabled) -}}
{{- fail "\n\npublicUrl is not set: it is where CHeKT reaches the receiver from the internet, and the urls of all webhooks begin with it.\nWrite for example\n\n    --set publicUrl=https://alarms.example.com\n\nor, to try things out without CHeKT and within the cluster,\n\n    --set sandbox.enabled=true\n" -}}
{{- end -}}
{{- with $v.publicUrl -}}
{{- $url := urlParse . -}}
{{- if not (and (has $url.scheme (list "http" "https")) $url.hostname) -}}
{{- fail (printf "\n\npublicUrl %q is not a URL: write https://alarms.example.com or https://alarms.example.com/path.\n" .) -}}
{{- end -}}
{{- if or $url.query $url.fragment $url.userinfo -}}
{{- fail "\n\npublicUrl must have no user, query or fragment: write https://host or https://host/path.\n" -}}
{{- end -}}
{{- if and (eq $url.scheme "http") (not $c.allowInsecurePublicUrl) -}}
{{- fail (printf "\n\npublicUrl %q is plain http, which CHeKT refuses: write https, or, for a sandbox, set controller.allowInsecurePublicUrl=true.\n" .) -}}
{{- end -}}
{{- end -}}

{{- if and $c.defaultAccount (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-.a-z0-9]*[a-z0-9])?$" $c.defaultAccount)) -}}
{{- fail (printf "\n\ncontroller.defaultAccount %q is not namespace/name: write for example security/default.\n" $c.defaultAccount) -}}
{{- end -}}
{{- if and $c.defaultAccount $v.watchNamespaces (not (has (first (splitList "/" $c.defaultAccount)) $v.watchNamespaces)) -}}
{{- fail (printf "\n\ncontroller.defaultAccount %q is in a namespace that is not looked after: add it to watchNamespaces.\n" $c.defaultAccount) -}}
{{- end -}}

{{- if not $c.leaderElect -}}
{{- if kindIs "invalid" $v.replicas -}}
{{- fail "\n\ncontroller.leaderElect is false, so there must never be two controllers: set replicas to 1.\n" -}}
{{- else if gt (int $v.replicas) 1 -}}
{{- fail (printf "\n\ncontroller.leaderElect is false and replicas is %d: two controllers would act at once. Set replicas to 1, or leaderElect to true.\n" (int $v.replicas)) -}}
{{- end -}}
{{- end -}}

{{- $ports := list (int $r.port) (int $r.opsPort) (int $c.opsPort) -}}
{{- if ne (len (uniq $ports)) 3 -}}
{{- fail (printf "\n\nreceiver.port %d, receiver.opsPort %d and controller.opsPort %d are of one Pod: give each a number of its own.\n" (int $r.port) (int $r.opsPort) (int $c.opsPort)) -}}
{{- end -}}

{{- $longest := include "chekt-operator.longestEnd" . | int -}}
{{- if lt (include "chekt-operator.terminationGracePeriodSeconds" . | int) $longest -}}
{{- fail (printf "\n\nterminationGracePeriodSeconds %d is shorter than controller and receiver can need to end: with receiver.drainDelay %d, receiver.drainTimeout %d and receiver.preStopSleepSeconds %d that is %d. Write at least %d, or leave it out.\n" (int $v.terminationGracePeriodSeconds) (int $r.drainDelay) (int $r.drainTimeout) (int $r.preStopSleepSeconds) $longest $longest) -}}
{{- end -}}

{{- if and $r.cloudEvents.url (hasPrefix "http://" $r.cloudEvents.url) (not $r.cloudEvents.allowInsecure) -}}
{{- fail (printf "\n\nreceiver.cloudEvents.url %q is plain http: write https, or set receiver.cloudEvents.allowInsecure=true.\n" $r.cloudEvents.url) -}}
{{- end -}}

{{- if and $v.privateCA.configMapName $v.privateCA.secretName -}}
{{- fail "\n\nprivateCA.configMapName and privateCA.secretName are both set: the certificates are in one of them.\n" -}}
{{- end -}}

{{- if $v.ingress.enabled -}}
{{- if and (include "chekt-operator.publicPath" .) (not $v.ingress.path) -}}
{{- fail (printf "\n\npublicUrl has the path %q, and no two Ingress controllers take a path off in the same way. Set ingress.path and the annotations of yours that do so, or use httpRoute.enabled, which can by itself.\n" (include "chekt-operator.publicPath" .)) -}}
{{- end -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "\n\nhttpRoute.parentRefs is not set: name your Gateway, for example\n\n    httpRoute:\n      enabled: true\n      parentRefs: [{name: public, namespace: gateways}]\n" -}}
{{- end -}}

{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled -}}
{{- fail "\n\nmetrics.serviceMonitor.enabled and metrics.podMonitor.enabled are both true, so every metric would be there twice: set one of them to false.\n" -}}
{{- end -}}

{{- range $key := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" -}}
{{- if or (hasKey $v.commonLabels $key) (hasKey $v.podLabels $key) -}}
{{- fail (printf "\n\nThe label %s is what Service and Deployment find the Pods by: leave it out of commonLabels and podLabels. nameOverride changes app.kubernetes.io/name.\n" $key) -}}
{{- end -}}
{{- end -}}
{{- end }}
