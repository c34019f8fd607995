{{/* The name of all objects of this chart. */}}
{{- define "pleo-auth-proxy.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "pleo-auth-proxy.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pleo-auth-proxy.labels" -}}
{{ include "pleo-auth-proxy.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "pleo-auth-proxy.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository is required: build the image from the Dockerfile, push it to your registry, and set its name here" $image.repository -}}
{{- if $image.digest -}}
{{ $repository }}@{{ $image.digest }}
{{- else -}}
{{ $repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "pleo-auth-proxy.claim" -}}
{{ .Values.store.claim.existing | default (include "pleo-auth-proxy.fullname" .) }}
{{- end -}}

{{- define "pleo-auth-proxy.kind" -}}
{{ and (eq .Values.mode "gateway") (eq .Values.store.driver "postgres") | ternary "StatefulSet" "Deployment" }}
{{- end -}}

{{/* The URL scheme of a listener. */}}
{{- define "pleo-auth-proxy.scheme" -}}
{{- $tls := dig .of "tls" dict .config | default dict -}}
{{ or (empty $tls.cert_file | not) (dig "acme" "domains" list $tls | empty | not) | ternary "https" "http" }}
{{- end -}}

{{- define "pleo-auth-proxy.strategy" -}}
{{ .Values.strategy | default (eq .Values.store.driver "sqlite" | ternary "Recreate" "RollingUpdate") }}
{{- end -}}
