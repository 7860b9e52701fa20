{{/* Service -> key of its values; the names are those of Deployments, labels, images and bus users. */}}
{{- define "shoal.services" -}}
cluster-state: clusterState
pod-grouper: podgrouper
queue-controller: queuecontroller
scheduler: scheduler
binder: binder
gpu-reservation: gpuReservation
admission: admission
shard-controller: shardController
{{- end -}}

{{- define "shoal.labels" -}}
app.kubernetes.io/part-of: shoal
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What the pods of a service are selected by. Arguments: root, app. */}}
{{- define "shoal.selector" -}}
app: {{ .app }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{/* The name of a service's workload, and its label app. The reference's users select the scheduler by this one. */}}
{{- define "shoal.app" -}}
{{- if eq .service "scheduler" -}}{{ .root.Values.global.schedulerName }}-default{{- else -}}{{ .service }}{{- end -}}
{{- end -}}

{{/* Arguments: root, image (registry, name, tag). */}}
{{- define "shoal.image" -}}
{{- $global := .root.Values.global -}}
{{ .image.registry | default $global.registry }}/{{ .image.name }}:{{ .image.tag | default $global.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{/* Replicas of a service. Arguments: root, values. */}}
{{- define "shoal.replicas" -}}
{{- if kindIs "invalid" .values.replicas -}}{{ .root.Values.global.replicaCount }}{{- else -}}{{ .values.replicas }}{{- end -}}
{{- end -}}

{{- define "shoal.containerSecurity" -}}
{{- $base := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "runAsNonRoot" true "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- mergeOverwrite $base (deepCopy .Values.global.securityContext) | toYaml -}}
{{- end -}}

{{- define "shoal.podSecurity" -}}
{{- $base := dict "runAsNonRoot" true "runAsUser" 10000 "runAsGroup" 10000 "fsGroup" 10000 "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- mergeOverwrite $base (deepCopy .Values.global.podSecurityContext) | toYaml -}}
{{- end -}}

{{/* Where the pods of a workload go. Arguments: root, app, affinity. */}}
{{- define "shoal.placement" -}}
{{- $global := .root.Values.global -}}
{{- with $global.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $global.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $global.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $own := .affinity | default $global.affinity }}
affinity:
{{- if $own }}
  {{- toYaml $own | nindent 2 }}
{{- else }}
  podAntiAffinity:
  {{- if $global.requireDefaultPodAntiAffinityTerm }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "shoal.selector" . | nindent 12 }}
  {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{- include "shoal.selector" . | nindent 14 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "shoal.natsUrl" -}}
{{- if .Values.nats.enabled -}}
tls://shoal-nats.{{ .Release.Namespace }}.svc:4222
{{- else -}}
{{- required "nats.external.url: give the address of your NATS, or set nats.enabled" .Values.nats.external.url -}}
{{- end -}}
{{- end -}}

{{- define "shoal.natsReplicas" -}}
{{- if .Values.nats.enabled -}}{{ .Values.nats.replicas }}{{- else -}}{{ .Values.nats.external.replicas }}{{- end -}}
{{- end -}}

{{/* The Secret with the password of a service. Arguments: root, service. */}}
{{- define "shoal.natsSecret" -}}
{{- if .root.Values.nats.enabled -}}shoal-nats-user-{{ .service }}
{{- else -}}
{{- required "nats.external.existingSecret: name the secret with the passwords of your NATS" .root.Values.nats.external.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* Whether the services are given the certificate of the authority that signed the server's. */}}
{{- define "shoal.natsCa" -}}
{{- if or .Values.nats.enabled .Values.nats.external.caFromSecret -}}true{{- end -}}
{{- end -}}

{{- define "shoal.natsCaSecret" -}}
{{- if not .Values.nats.enabled -}}{{ .Values.nats.external.existingSecret }}
{{- else -}}{{ .Values.nats.tls.existingSecret | default "shoal-nats-tls" }}{{- end -}}
{{- end -}}
