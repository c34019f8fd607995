{{/*
Checks the values before anything is rendered. A grant must have exactly one store: if
two pods use the same refresh token, Pleo ends the grant. Values that allow this are
rejected, with the reason and the fix.
*/}}
{{- define "pleo-auth-proxy.check" -}}
{{- include "pleo-auth-proxy.checkNames" (dict "list" "connections" "of" .Values.connections) -}}
{{- include "pleo-auth-proxy.checkNames" (dict "list" "clients" "of" .Values.clients) -}}
{{- include "pleo-auth-proxy.checkStore" . -}}
{{- include "pleo-auth-proxy.checkSecrets" . -}}
{{- include "pleo-auth-proxy.checkConfig" . -}}
{{- include "pleo-auth-proxy.checkFiles" . -}}
{{- if eq .Values.mode "gateway" -}}
{{- include "pleo-auth-proxy.checkGateway" . -}}
{{- else if or .Values.connect.ingress.enabled .Values.autoscaling.enabled .Values.serviceMonitor.enabled -}}
{{- fail "connect.ingress, autoscaling and serviceMonitor are for mode gateway: in mode sidecar the pods and their Service belong to your own chart" -}}
{{- end -}}
{{- end -}}

{{/* Names are unique; those of connections must differ by more than case. */}}
{{- define "pleo-auth-proxy.checkNames" -}}
{{- $seen := dict -}}
{{- range .of -}}
{{- $name := eq $.list "connections" | ternary (lower .name) .name -}}
{{- $other := get $seen $name -}}
{{- if $other -}}
{{- fail (printf "%s has the names %s and %s, which are the same" $.list $other .name) -}}
{{- end -}}
{{- $_ := set $seen $name .name -}}
{{- end -}}
{{- end -}}

{{- define "pleo-auth-proxy.checkStore" -}}
{{- $s := .Values.store -}}
{{- if eq $s.driver "memory" -}}
{{- if .Values.oauth.clientId -}}
{{- fail "oauth.clientId requires a store.driver other than memory: refresh tokens change with every use, and the memory store loses them at a restart; use sqlite for one pod, or postgres" -}}
{{- end -}}
{{- if .Values.connect.publicUrl -}}
{{- fail "connect.publicUrl requires a store.driver other than memory, which loses new connections at a restart; use sqlite for one pod, or postgres" -}}
{{- end -}}
{{- if not .Values.connections -}}
{{- fail "store.driver memory requires connections: declare them with their keys, or use sqlite or postgres" -}}
{{- end -}}
{{- else if not $s.keyset.name -}}
{{- fail (printf "store.keyset.name is required with store.driver %s: the Secret with the keyset that encrypts the store" $s.driver) -}}
{{- end -}}
{{- if eq $s.driver "sqlite" -}}
{{- include "pleo-auth-proxy.checkOnePod" . -}}
{{- end -}}
{{- if and (eq $s.driver "postgres") (not $s.dsn.name) -}}
{{- fail "store.dsn.name is required with store.driver postgres: the Secret with the connection string" -}}
{{- end -}}
{{- end -}}

{{- define "pleo-auth-proxy.checkOnePod" -}}
{{- $why := "store.driver sqlite is for a single pod: two pods would use the same refresh token, and Pleo would end the grant" -}}
{{- if or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled -}}
{{- fail (printf "%s; use one replica without autoscaling, or store.driver postgres" $why) -}}
{{- end -}}
{{- if ne (include "pleo-auth-proxy.strategy" .) "Recreate" -}}
{{- fail (printf "%s; a strategy other than Recreate runs the old and the new pod at the same time: use Recreate, or store.driver postgres" $why) -}}
{{- end -}}
{{- $claim := .Values.store.claim -}}
{{- if ne $claim.accessMode "ReadWriteOncePod" -}}
{{- fail (printf "%s; store.claim.accessMode %s permits a second pod: use ReadWriteOncePod, or store.driver postgres" $why $claim.accessMode) -}}
{{- end -}}
{{- if $claim.existing -}}
{{- $there := lookup "v1" "PersistentVolumeClaim" .Release.Namespace $claim.existing -}}
{{- if and $there (ne (toJson $there.spec.accessModes) "[\"ReadWriteOncePod\"]") -}}
{{- fail (printf "%s; the claim %s has the access modes %s: create one with ReadWriteOncePod only" $why $claim.existing (toJson $there.spec.accessModes)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pleo-auth-proxy.checkSecrets" -}}
{{- if and .Values.oauth.clientId (not .Values.oauth.clientSecret.name) -}}
{{- fail "oauth.clientSecret.name is required with oauth.clientId: the Secret with the client secret" -}}
{{- end -}}
{{- if and .Values.oauth.clientSecret.name (not .Values.oauth.clientId) -}}
{{- fail "oauth.clientId is required with oauth.clientSecret" -}}
{{- end -}}
{{- $url := dig "upstream" "proxy_url" "" .Values.config | toString -}}
{{- if and $url .Values.upstream.proxyUrl.name -}}
{{- fail "config.upstream.proxy_url and upstream.proxyUrl are both set; set one of them" -}}
{{- end -}}
{{- if contains "@" $url -}}
{{- fail "config.upstream.proxy_url contains a password, and a ConfigMap is not secret; put the URL into a Secret and set upstream.proxyUrl to it" -}}
{{- end -}}
{{- end -}}

{{/* Rejects keys of config for which the chart has a value. */}}
{{- define "pleo-auth-proxy.checkConfig" -}}
{{- $instead := dict
  "environment" "environment" "data_dir" "store.claim" "store" "store" "connections" "connections"
  "oauth.client_id" "oauth.clientId" "oauth.client_secret" "oauth.clientSecret" "oauth.client_secret_file" "oauth.clientSecret"
  "oauth.previous_client_secret" "oauth.previousClientSecret" "oauth.previous_client_secret_file" "oauth.previousClientSecret"
  "proxy.listen" "mode and sidecar.socket" "proxy.clients" "clients" "proxy.client_networks" "clientNetworks"
  "proxy.dangerously_allow_anyone" "clients or clientNetworks" "connect.listen" "connect.publicUrl" "connect.public_url" "connect.publicUrl"
  "admin.listen" "kubectl port-forward" "admin.token_file" "admin.token" "health" "nothing: the probes depend on it"
-}}
{{- range $path, $value := $instead -}}
{{- $parts := splitList "." $path -}}
{{- $section := $.Values.config -}}
{{- if gt (len $parts) 1 -}}{{- $section = get $.Values.config (first $parts) | default dict -}}{{- end -}}
{{- if hasKey $section (last $parts) -}}
{{- fail (printf "config.%s is set by the chart; use %s instead" $path $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Rejects files in config that are not in files: the pod has no others. */}}
{{- define "pleo-auth-proxy.checkFiles" -}}
{{- range $name, $f := .Values.files -}}
{{- if or (and $f.secret $f.configMap) (not (or $f.secret $f.configMap)) -}}
{{- fail (printf "files.%s must have either a secret or a configMap" $name) -}}
{{- end -}}
{{- end -}}
{{- include "pleo-auth-proxy.checkFilesIn" (dict "path" "config" "value" .Values.config "files" .Values.files "dir" (printf "%s/files" (include "pleo-auth-proxy.secretsDir" .))) -}}
{{- end -}}

{{- define "pleo-auth-proxy.checkFilesIn" -}}
{{- if kindIs "map" .value -}}
{{- range $key, $value := .value -}}
{{- $path := printf "%s.%s" $.path $key -}}
{{- if and (hasSuffix "_file" $key) (kindIs "string" $value) $value -}}
{{- if or (ne (dir $value) $.dir) (not (hasKey $.files (base $value))) -}}
{{- fail (printf "%s names %s, which does not exist in the pod; add the file to files and set this to %s/NAME" $path $value $.dir) -}}
{{- end -}}
{{- else -}}
{{- include "pleo-auth-proxy.checkFilesIn" (dict "path" $path "value" $value "files" $.files "dir" $.dir) -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" .value -}}
{{- range $i, $value := .value -}}
{{- include "pleo-auth-proxy.checkFilesIn" (dict "path" (printf "%s[%d]" $.path $i) "value" $value "files" $.files "dir" $.dir) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pleo-auth-proxy.checkGateway" -}}
{{- if not (or .Values.clients .Values.clientNetworks) -}}
{{- fail "a gateway needs clients or clientNetworks: without them every program that reaches it could use every connection" -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas is %d, more than autoscaling.maxReplicas, which is %d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and (dig "connect" "tls" "acme" "domains" list .Values.config) (or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled) -}}
{{- fail "config.connect.tls.acme does not work with several pods: the challenge may reach another pod than the one that started it; terminate TLS in front of them, or take the certificate from files" -}}
{{- end -}}
{{- if .Values.sidecar.socket -}}
{{- fail "sidecar.socket is for mode sidecar: other pods cannot reach a unix socket" -}}
{{- end -}}
{{- if and .Values.connect.ingress.enabled (not .Values.connect.publicUrl) -}}
{{- fail "connect.ingress requires connect.publicUrl, the URL that customers use" -}}
{{- end -}}
{{- end -}}
