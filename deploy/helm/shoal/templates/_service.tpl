{{/* The settings file of a service: what the chart knows, then the value `config`. Arguments: root, service, values. */}}
{{- define "shoal.config" -}}
{{- $global := .root.Values.global -}}
{{- $config := dict "scheduler_name" $global.schedulerName "log_level" $global.logLevel -}}
{{- if eq .service "scheduler" -}}
{{- $flags := dict "queueLabelKey" $global.queueLabelKey "partitionParams" (dict "NodePoolLabelKey" $global.nodePoolLabelKey) -}}
{{- $_ := set $config "policy" (include "shoal.policy" .root | fromYaml) -}}
{{- $_ := set $config "flags" (mergeOverwrite $flags (deepCopy .values.args)) -}}
{{- else if eq .service "pod-grouper" -}}
{{- $_ := set $config "replicas" (include "shoal.replicas" . | int) -}}
{{- $_ := set $config "queue_label_key" $global.queueLabelKey -}}
{{- $_ := set $config "node_pool_label_key" $global.nodePoolLabelKey -}}
{{- else if eq .service "shard-controller" -}}
{{- $_ := set $config "queue_label_key" $global.queueLabelKey -}}
{{- $_ := set $config "node_pool_label_key" $global.nodePoolLabelKey -}}
{{- else if eq .service "binder" -}}
{{- $_ := set $config "cdi" .values.cdiEnabled -}}
{{- else if eq .service "admission" -}}
{{- $_ := set $config "host" "0.0.0.0" -}}
{{- $_ := set $config "port" 9443 -}}
{{- $_ := set $config "gpu_sharing" $global.gpuSharing -}}
{{- $_ := set $config "block_nvidia_visible_devices" $global.blockNvidiaVisibleDevices -}}
{{- $_ := set $config "gpu_fraction_runtime_class_name" .values.gpuFractionRuntimeClassName -}}
{{- if .values.certManager.enabled -}}
{{- $_ := set $config "certificate_folder" "/etc/shoal/certificate" -}}
{{- end -}}
{{- else if eq .service "gpu-reservation" -}}
{{- $binder := .root.Values.binder -}}
{{- $_ := set $config "reservation" (dict
      "image" (include "shoal.image" (dict "root" .root "image" $binder.resourceReservationImage))
      "pull_policy" $global.imagePullPolicy "runtime_class" $binder.runtimeClassName) -}}
{{- end -}}
{{- mergeOverwrite $config (deepCopy .values.config) | toYaml -}}
{{- end -}}

{{/* Pod template of a service. Arguments: root, service, values. */}}
{{- define "shoal.pod" -}}
{{- $root := .root -}}
{{- $app := include "shoal.app" . -}}
metadata:
  labels:
    {{- include "shoal.selector" (dict "root" $root "app" $app) | nindent 4 }}
    {{- include "shoal.labels" $root | nindent 4 }}
  annotations:
    checksum/config: {{ include "shoal.config" . | sha256sum }}
    shoal.dev/credentials: {{ $root.Values.nats.rotate | toString | quote }}
spec:
  serviceAccountName: shoal-{{ .service }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  terminationGracePeriodSeconds: 15
  securityContext: {{- include "shoal.podSecurity" $root | nindent 4 }}
  {{- include "shoal.placement" (dict "root" $root "app" $app "affinity" .values.affinity) | nindent 2 }}
  containers:
    - name: {{ .service }}
      image: {{ include "shoal.image" (dict "root" $root "image" .values.image) }}
      imagePullPolicy: {{ $root.Values.global.imagePullPolicy }}
      env:
        - {name: SHOAL_CONFIG, value: /etc/shoal/config/config.yaml}
        - {name: SHOAL_NAMESPACE, value: {{ $root.Release.Namespace | quote }}}
        - {name: SHOAL_HTTP_HOST, value: "0.0.0.0"}
        - {name: SHOAL_HTTP_PORT, value: "8080"}
        - {name: SHOAL_NATS_URL, value: {{ include "shoal.natsUrl" $root | quote }}}
        - {name: SHOAL_NATS_REPLICAS, value: {{ include "shoal.natsReplicas" $root | quote }}}
        {{- $user := .service }}
        {{- $key := ternary "password" .service $root.Values.nats.enabled }}
        {{- if and (not $root.Values.nats.enabled) $root.Values.nats.external.user }}
        {{- $user = $root.Values.nats.external.user }}
        {{- $key = "password" }}
        {{- end }}
        - {name: SHOAL_NATS_USER, value: {{ $user | quote }}}
        - {name: SHOAL_NATS_PASSWORD_FILE, value: /etc/shoal/bus/password}
        {{- if include "shoal.natsCa" $root }}
        - {name: SHOAL_NATS_CA_FILE, value: /etc/shoal/bus/ca.crt}
        {{- end }}
        {{- if not (or $root.Values.nats.enabled $root.Values.nats.external.tlsFirst) }}
        - {name: SHOAL_NATS_TLS_FIRST, value: "false"}
        {{- end }}
        {{- if eq .service "scheduler" }}
        - {name: SHOAL_OVERLAY, value: /etc/shoal/shard/config.yaml}
        {{- end }}
        {{- if eq .service "pod-grouper" }}
        - name: SHOAL_REPLICA
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}
        {{- end }}
      ports:
        - {name: {{ include "shoal.metricsPort" . }}, containerPort: 8080}
        {{- if eq .service "admission" }}
        - {name: webhook, containerPort: 9443}
        {{- end }}
      readinessProbe:
        httpGet: {path: /readyz, port: 8080}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 3
      livenessProbe:
        httpGet: {path: /healthz, port: 8080}
        initialDelaySeconds: 10
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      resources: {{- toYaml .values.resources | nindent 8 }}
      securityContext: {{- include "shoal.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/shoal/config, readOnly: true}
        - {name: bus, mountPath: /etc/shoal/bus, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        {{- if eq .service "scheduler" }}
        - {name: shard, mountPath: /etc/shoal/shard, readOnly: true}
        {{- end }}
        {{- if and (eq .service "admission") .values.certManager.enabled }}
        - {name: certificate, mountPath: /etc/shoal/certificate, readOnly: true}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: shoal-{{ .service }}}
    - name: bus
      projected:
        defaultMode: 0440
        sources:
          - secret:
              name: {{ include "shoal.natsSecret" (dict "root" $root "service" .service) }}
              items: [{key: {{ $key }}, path: password}]
          {{- if include "shoal.natsCa" $root }}
          - secret:
              name: {{ include "shoal.natsCaSecret" $root }}
              items: [{key: ca.crt, path: ca.crt}]
          {{- end }}
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- if eq .service "scheduler" }}
    # Options of the SchedulingShard named default; schedulers of other shards are made in this one's image, with their own.
    - name: shard
      configMap: {name: shoal-shard-default, optional: true}
    {{- end }}
    {{- if and (eq .service "admission") .values.certManager.enabled }}
    - name: certificate
      secret: {secretName: shoal-admission-cert-manager, defaultMode: 0440}
    {{- end }}
{{- end -}}

{{/* The reference's users scrape queue-controller by the port `metrics`, the others by `http-metrics`. */}}
{{- define "shoal.metricsPort" -}}
{{- if eq .service "queue-controller" -}}metrics{{- else -}}http-metrics{{- end -}}
{{- end -}}
