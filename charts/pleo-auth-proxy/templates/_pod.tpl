{{/*
The parts of the container that gateway and sidecar have in common. It meets the
restricted Pod Security Standard regardless of the pod's settings.
*/}}
{{- define "pleo-auth-proxy.container" -}}
name: pleo-auth-proxy
image: {{ include "pleo-auth-proxy.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy | default (empty .Values.image.digest | ternary "Always" "IfNotPresent") }}
args: [serve]
{{- with .Values.upstream.proxyUrl }}
{{- if .name }}
env:
  - name: PLEO_UPSTREAM_PROXY_URL
    valueFrom:
      secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}
ports:
  {{- if eq .Values.mode "gateway" }}
  - {name: proxy, containerPort: 8484, protocol: TCP}
  {{- end }}
  {{- if .Values.connect.publicUrl }}
  - {name: connect, containerPort: 8486, protocol: TCP}
  {{- end }}
  - {name: pleo-health, containerPort: 8487, protocol: TCP}
startupProbe:
  httpGet: {path: /readyz, port: pleo-health}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: pleo-health}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: pleo-health}
  periodSeconds: 5
  timeoutSeconds: 5
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
  - {name: pleo-config, mountPath: /etc/pleo-auth-proxy, readOnly: true}
  - {name: pleo-data, mountPath: /var/lib/pleo-auth-proxy}
  - {name: pleo-tmp, mountPath: /tmp}
  {{- if include "pleo-auth-proxy.secretSources" . }}
  - {name: pleo-secrets, mountPath: {{ include "pleo-auth-proxy.secretsDir" . }}, readOnly: true}
  {{- end }}
  {{- if .Values.sidecar.socket }}
  - {name: pleo-socket, mountPath: /run/pleo-auth-proxy}
  {{- end }}
{{- end -}}

{{/* A checksum of the configuration, so that pods are replaced when it changes. */}}
{{- define "pleo-auth-proxy.annotations" -}}
pleo-auth-proxy/config: {{ include "pleo-auth-proxy.config" . | sha256sum | trunc 16 | quote }}
{{- end -}}

{{/* The replicas and strategy of a Deployment, as the store permits. */}}
{{- define "pleo-auth-proxy.workload" -}}
{{- include "pleo-auth-proxy.check" . -}}
{{- if not .Values.autoscaling.enabled -}}
replicas: {{ .Values.replicas }}
{{ end -}}
strategy:
  type: {{ include "pleo-auth-proxy.strategy" . }}
{{- end -}}

{{/*
The fields of the pod: time to finish a refresh, no variables for Services, and a group
that may read secrets and write to volumes. Everything else is set on the container,
since a sidecar's pod belongs to another chart.
*/}}
{{- define "pleo-auth-proxy.pod" -}}
terminationGracePeriodSeconds: 90
enableServiceLinks: false
securityContext:
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
{{- end -}}

{{/*
The proxy as a native sidecar: an init container that keeps running. It is ready before
the application starts and stops after it.
*/}}
{{- define "pleo-auth-proxy.sidecar" -}}
{{- include "pleo-auth-proxy.check" . -}}
- {{ include "pleo-auth-proxy.container" . | nindent 2 | trim }}
  restartPolicy: Always
{{- end -}}

{{- define "pleo-auth-proxy.volumes" -}}
- name: pleo-config
  configMap: {name: {{ include "pleo-auth-proxy.fullname" . }}}
{{- if eq .Values.store.driver "sqlite" }}
- name: pleo-data
  persistentVolumeClaim: {claimName: {{ include "pleo-auth-proxy.claim" . }}}
{{- else if ne (include "pleo-auth-proxy.kind" .) "StatefulSet" }}
- name: pleo-data
  emptyDir: {sizeLimit: 256Mi}
{{- end }}
- name: pleo-tmp
  emptyDir: {sizeLimit: {{ .Values.replayDisk }}}
{{- with include "pleo-auth-proxy.secretSources" . }}
- name: pleo-secrets
  projected:
    defaultMode: 0440
    sources:
      {{- . | trim | nindent 6 }}
{{- end }}
{{- if .Values.sidecar.socket }}
- name: pleo-socket
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}
{{- end -}}

{{/* The mount for the application's container, with sidecar.socket. */}}
{{- define "pleo-auth-proxy.socketMount" -}}
- {name: pleo-socket, mountPath: /run/pleo-auth-proxy}
{{- end -}}
