{{- define "sluice.name" -}}
{{- if contains "sluice" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-sluice" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "sluice.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "sluice.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001 # reads the secrets
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sluice.container" -}}
image: {{ include "sluice.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "sluice.has-ca" -}}
{{- if or .Values.ca.configMap .Values.ca.secret }}yes{{ end }}
{{- end }}

{{- define "sluice.ca-volume" -}}
- name: ca
  {{- if .Values.ca.configMap }}
  configMap: {name: {{ .Values.ca.configMap | quote }}, items: [{key: {{ .Values.ca.key | quote }}, path: ca.crt}]}
  {{- else }}
  secret: {secretName: {{ .Values.ca.secret | quote }}, defaultMode: 0440, items: [{key: {{ .Values.ca.key | quote }}, path: ca.crt}]}
  {{- end }}
{{- end }}

{{- define "sluice.ca-mount" -}}
- {name: ca, mountPath: /etc/sluice/ca, readOnly: true}
{{- end }}
