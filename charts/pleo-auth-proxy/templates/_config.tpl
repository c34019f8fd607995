{{- define "pleo-auth-proxy.secretsDir" -}}/run/secrets/pleo-auth-proxy{{- end -}}

{{/* The configuration file, as YAML. */}}
{{- define "pleo-auth-proxy.config" -}}
{{- $secrets := include "pleo-auth-proxy.secretsDir" . -}}
{{- $v := .Values -}}
{{- $store := dict "driver" $v.store.driver -}}
{{- if ne $v.store.driver "memory" -}}
{{- $_ := set $store "keyset_file" (printf "%s/keyset.json" $secrets) -}}
{{- end -}}
{{- if eq $v.store.driver "postgres" -}}
{{- $_ := set $store "dsn_file" (printf "%s/dsn" $secrets) -}}
{{- end -}}
{{- $config := dict
  "environment" $v.environment
  "data_dir" "/var/lib/pleo-auth-proxy"
  "store" $store
  "proxy" (include "pleo-auth-proxy.proxyConfig" . | fromYaml)
  "health" (dict "listen" ":8487")
-}}
{{- with include "pleo-auth-proxy.oauthConfig" . | fromYaml -}}{{- $_ := set $config "oauth" . -}}{{- end -}}
{{- with $v.admin.token.name -}}{{- $_ := set $config "admin" (dict "token_file" (printf "%s/admin-token" $secrets)) -}}{{- end -}}
{{- with $v.connect.publicUrl -}}
{{- $_ := set $config "connect" (dict "public_url" . "listen" ":8486") -}}
{{- end -}}
{{- $connections := list -}}
{{- range $v.connections -}}
{{- $c := dict "name" .name "kind" .kind "api_key_file" (printf "%s/keys/%s" $secrets .name) -}}
{{- with .externalTenant -}}{{- $_ := set $c "external_tenant" . -}}{{- end -}}
{{- $connections = append $connections $c -}}
{{- end -}}
{{- with $connections -}}{{- $_ := set $config "connections" . -}}{{- end -}}
{{- $config = mergeOverwrite $config (deepCopy $v.config) -}}
{{- with include "pleo-auth-proxy.shortHost" . -}}
{{- $_ := set $config.proxy "allowed_hosts" (append ($config.proxy.allowed_hosts | default list) . | uniq) -}}
{{- end -}}
{{- $config | toYaml -}}
{{- end -}}

{{/*
The host name SERVICE.NAMESPACE. The proxy does not treat it as private by default, since a
namespace can have the name of a public top-level domain, such as team: the owner of
SERVICE.team could point that name here and use the proxy from a web page (DNS rebinding).
Such a page has no client token, so the name is allowed only if clients need a token.
*/}}
{{- define "pleo-auth-proxy.shortHost" -}}
{{- if and (eq .Values.mode "gateway") .Values.clients -}}
{{ include "pleo-auth-proxy.fullname" . }}.{{ .Release.Namespace }}
{{- end -}}
{{- end -}}

{{- define "pleo-auth-proxy.oauthConfig" -}}
{{- $secrets := include "pleo-auth-proxy.secretsDir" . -}}
{{- with .Values.oauth -}}
{{- if .clientId -}}
client_id: {{ .clientId | quote }}
client_secret_file: {{ $secrets }}/client-secret
{{- if .previousClientSecret.name }}
previous_client_secret_file: {{ $secrets }}/previous-client-secret
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pleo-auth-proxy.proxyConfig" -}}
{{- $secrets := include "pleo-auth-proxy.secretsDir" . -}}
{{- if eq .Values.mode "gateway" -}}
listen: :8484
{{- else if .Values.sidecar.socket -}}
listen: unix:/run/pleo-auth-proxy/proxy.sock?mode=0660
{{- else -}}
listen: 127.0.0.1:8484
{{- end }}
{{- with .Values.clients }}
clients:
{{- range . }}
  - name: {{ .name | quote }}
    token_file: {{ $secrets }}/clients/{{ .name }}
    {{- with .connections }}
    connections: {{ toJson . }}
    {{- end }}
    {{- with .allow }}
    allow: {{ toJson . }}
    {{- end }}
{{- end }}
{{- end }}
{{- with .Values.clientNetworks }}
client_networks: {{ toJson . }}
{{- end }}
{{- end -}}

{{/* All Secrets and files in use, as the sources of one projected volume. */}}
{{- define "pleo-auth-proxy.secretSources" -}}
{{- $v := .Values -}}
{{- $all := list -}}
{{- if $v.oauth.clientId -}}
{{- $all = append $all (dict "from" $v.oauth.clientSecret "path" "client-secret") -}}
{{- if $v.oauth.previousClientSecret.name -}}
{{- $all = append $all (dict "from" $v.oauth.previousClientSecret "path" "previous-client-secret") -}}
{{- end -}}
{{- end -}}
{{- if ne $v.store.driver "memory" -}}{{- $all = append $all (dict "from" $v.store.keyset "path" "keyset.json") -}}{{- end -}}
{{- if eq $v.store.driver "postgres" -}}{{- $all = append $all (dict "from" $v.store.dsn "path" "dsn") -}}{{- end -}}
{{- if $v.admin.token.name -}}{{- $all = append $all (dict "from" $v.admin.token "path" "admin-token") -}}{{- end -}}
{{- range $v.connections -}}{{- $all = append $all (dict "from" .apiKey "path" (printf "keys/%s" .name)) -}}{{- end -}}
{{- range $v.clients -}}{{- $all = append $all (dict "from" .token "path" (printf "clients/%s" .name)) -}}{{- end -}}
{{- range $name, $f := $v.files -}}
{{- $from := dict "name" ($f.secret | default $f.configMap) "key" $f.key -}}
{{- $all = append $all (dict "from" $from "path" (printf "files/%s" $name) "source" (empty $f.secret | ternary "configMap" "secret")) -}}
{{- end -}}
{{- range $all }}
- {{ .source | default "secret" }}:
    name: {{ .from.name }}
    items:
      - key: {{ .from.key | quote }}
        path: {{ .path | quote }}
{{- end }}
{{- end -}}
