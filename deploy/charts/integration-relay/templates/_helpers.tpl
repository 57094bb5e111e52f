{{- define "relay.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "relay.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "relay.labels" -}}
{{ include "relay.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "relay.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "relay.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "relay.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* TRUE if the relay's own listener has TLS. */}}
{{- define "relay.hasTls" -}}
{{- if eq .Values.tls.terminatedBy "relay" }}true{{ end -}}
{{- end -}}

{{/* TRUE if a listener without TLS leaves the pod: the relay then wants a confirmation. */}}
{{- define "relay.isInsecure" -}}
{{- if or (not (include "relay.hasTls" .)) .Values.listen.internal.enabled .Values.metrics.enabled }}true{{ end -}}
{{- end -}}

{{/* The pod's template, the same for both kinds of storage. */}}
{{- define "relay.pod" -}}
{{- $isPostgres := eq .Values.storage.type "postgres" -}}
{{- $listen := .Values.listen.address -}}
metadata:
  labels:
    {{- include "relay.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.restartOnConfigChange .Values.podAnnotations }}
  annotations:
    {{- if .Values.restartOnConfigChange }}
    checksum/config: {{ .Values.config | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "relay.serviceAccount" . }}
  automountServiceAccountToken: false
  # Variables of Kubernetes with the prefix RELAY_ would be taken for config keys.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .Values.drainSeconds 15 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ .Values.runAsUser }}
    runAsGroup: {{ .Values.runAsUser }}
    fsGroup: {{ .Values.runAsUser }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: relay
      image: {{ include "relay.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      env:
        - {name: RELAY_CONFIG, value: /etc/integration-relay/relay.toml}
        - {name: RELAY_LISTEN_PUBLIC, value: {{ printf "%s:8443" $listen | quote }}}
        - {name: RELAY_LISTEN_AUTHORITIES, value: {{ .Values.hostnames | toJson | quote }}}
        # The probes ask this listener. It is open in standby, too.
        - {name: RELAY_LISTEN_ADMIN, value: {{ printf "%s:9090" (ternary $listen "127.0.0.1" .Values.metrics.enabled) | quote }}}
        {{- if .Values.listen.internal.enabled }}
        - {name: RELAY_LISTEN_INTERNAL, value: {{ printf "%s:8080" $listen | quote }}}
        {{- end }}
        {{- if .Values.listen.proxy.enabled }}
        - {name: RELAY_LISTEN_PROXY, value: {{ printf "%s:8444" $listen | quote }}}
        - {name: RELAY_LISTEN_PROXY_TLS, value: "true"}
        {{- end }}
        {{- if include "relay.isInsecure" . }}
        - {name: RELAY_LISTEN_INSECURE, value: "true"}
        {{- end }}
        {{- if include "relay.hasTls" . }}
        - {name: RELAY_TLS_CERT_FILE, value: /run/secrets/integration-relay-tls/tls.crt}
        - {name: RELAY_TLS_KEY_FILE, value: /run/secrets/integration-relay-tls/tls.key}
        {{- else }}
        - {name: RELAY_LISTEN_BEHIND_BALANCER, value: "true"}
        {{- end }}
        {{- if $isPostgres }}
        - {name: RELAY_STORAGE_URL_FILE, value: /run/secrets/integration-relay-storage/{{ .Values.storage.postgres.key }}}
        {{- else }}
        - {name: RELAY_STORAGE_URL, value: "sqlite:///var/lib/integration-relay/relay.db"}
        {{- end }}
        - {name: RELAY_STORAGE_KEY_FILE, value: /var/lib/integration-relay/relay-secrets.key}
        - {name: RELAY_LIMITS_DRAIN_TIMEOUT, value: {{ printf "%ds" (int64 .Values.drainSeconds) | quote }}}
        - {name: RELAY_LOG_FORMAT, value: json}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: public, containerPort: 8443}
        {{- if .Values.listen.internal.enabled }}
        - {name: internal, containerPort: 8080}
        {{- end }}
        {{- if .Values.listen.proxy.enabled }}
        - {name: proxy, containerPort: 8444}
        {{- end }}
        {{- if .Values.metrics.enabled }}
        - {name: metrics, containerPort: 9090}
        {{- end }}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      readinessProbe:
        exec: {command: [/usr/bin/integration-relay, health, --ready]}
        {{- toYaml .Values.readinessProbe | nindent 8 }}
      livenessProbe:
        exec: {command: [/usr/bin/integration-relay, health]}
        {{- toYaml .Values.livenessProbe | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/integration-relay, readOnly: true}
        - {name: data, mountPath: /var/lib/integration-relay}
        {{- if .Values.storage.encryption.existingSecret }}
        # A single file: the relay writes others next to it.
        - name: encryption
          mountPath: /var/lib/integration-relay/relay-secrets.key
          subPath: {{ .Values.storage.encryption.key }}
          readOnly: true
        {{- end }}
        {{- if $isPostgres }}
        - {name: storage, mountPath: /run/secrets/integration-relay-storage, readOnly: true}
        {{- end }}
        {{- if include "relay.hasTls" . }}
        - {name: tls, mountPath: /run/secrets/integration-relay-tls, readOnly: true}
        {{- end }}
        {{- range .Values.extraFiles }}
        - {name: files-{{ .name }}, mountPath: {{ .mountPath | quote }}, readOnly: true}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "relay.fullname" . }}}
    # Files of root that the relay's group may read, and no other.
    {{- if include "relay.hasTls" . }}
    - name: tls
      secret: {secretName: {{ .Values.tls.existingSecret }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.storage.encryption.existingSecret }}
    - name: encryption
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- if $isPostgres }}
    - name: storage
      secret: {secretName: {{ .Values.storage.postgres.existingSecret }}, defaultMode: 0440}
    # Nothing in it is needed after a restart.
    - name: data
      emptyDir: {sizeLimit: 64Mi}
    {{- end }}
    {{- range .Values.extraFiles }}
    - name: files-{{ .name }}
      {{- if .secret }}
      secret: {secretName: {{ .secret }}, defaultMode: 0440}
      {{- else }}
      configMap: {name: {{ .configMap }}}
      {{- end }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if gt (int .Values.replicaCount) 1 }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "relay.selectorLabels" . | nindent 10 }}
  {{- end }}
{{- end -}}
