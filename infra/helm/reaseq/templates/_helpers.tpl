{{- define "reaseq.labels" -}}
app.kubernetes.io/name: reaseq
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Selector labels of a component's pods. Takes a list: root context, component name. */}}
{{- define "reaseq.selector" -}}
app.kubernetes.io/name: reaseq
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "reaseq.hasModel" -}}
{{- if or .Values.vllm.enabled .Values.llm.baseUrl }}yes{{ end }}
{{- end }}

{{/*
Replicas of a component. Takes a list: root context, kind, component. With autoscaling, an upgrade keeps those that there are: Helm
removes what is gone from the manifest, and the API server would then take 1.
*/}}
{{- define "reaseq.replicas" -}}
{{- $root := index . 0 -}}
{{- if not $root.Values.autoscaling.enabled -}}
replicas: {{ (index $root.Values (index . 2)).replicas }}
{{- else -}}
{{- with lookup "apps/v1" (index . 1) $root.Release.Namespace (printf "%s-%s" $root.Release.Name (index . 2)) -}}
replicas: {{ .spec.replicas }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "reaseq.state" -}}
{{ .Values.state.existingClaim | default (printf "%s-state" .Release.Name) }}
{{- end }}

{{/* Pod spec of a `reaseq` command. Takes a dict: root, component, fields (of the container), secret, tag. */}}
{{- define "reaseq.pod" -}}
{{- $root := .root -}}
{{- $secret := .secret | default $root.Values.existingSecret -}}
automountServiceAccountToken: false
enableServiceLinks: false # variables of a Service named reaseq-… would look like settings
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: {{ .component }}
    image: "{{ $root.Values.image.repository }}:{{ .tag | default $root.Values.image.tag }}"
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: { drop: [ALL] }
    envFrom:
      - configMapRef: { name: {{ $root.Release.Name }}-settings }
    {{- with omit .fields "env" }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- $secrets := ternary (list (dict "name" "REASEQ_SECRETS_DIR" "value" "/run/secrets/reaseq")) list (not (empty $secret)) }}
    {{- with concat (.fields.env | default list) $secrets }}
    env: {{ toYaml . | nindent 6 }}
    {{- end }}
    volumeMounts:
      - { name: state, mountPath: /var/lib/reaseq }
      - { name: run, mountPath: /var/lib/reaseq/run }
      - { name: tmp, mountPath: /tmp }
      {{- if eq (include "reaseq.hasModel" $root) "yes" }}
      - { name: ledger, mountPath: /var/lib/ledger }
      {{- end }}
      {{- if $secret }}
      - { name: secrets, mountPath: /run/secrets/reaseq, readOnly: true }
      {{- end }}
volumes:
  - name: state
    persistentVolumeClaim: { claimName: {{ include "reaseq.state" $root }} }
  - { name: run, emptyDir: {} }
  - { name: tmp, emptyDir: {} }
  {{- if eq (include "reaseq.hasModel" $root) "yes" }}
  - { name: ledger, emptyDir: {} } # every worker opens a ledger; reasoning workers have a volume claim of this name instead
  {{- end }}
  {{- if $secret }}
  - name: secrets
    secret: { secretName: {{ $secret }} }
  {{- end }}
{{- end }}
