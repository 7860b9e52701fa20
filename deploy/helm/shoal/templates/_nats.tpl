{{/* The server's configuration. Arguments: root, passwords (by user). */}}
{{- define "shoal.natsConf" -}}
{{- $nats := .root.Values.nats -}}
{{- $passwords := .passwords -}}
server_name: $POD_NAME
listen: "0.0.0.0:4222"
# Looked at by kubectl port-forward only.
http: "127.0.0.1:8222"
max_payload: 1048576
max_connections: 1024
lame_duck_duration: "30s"
lame_duck_grace_period: "5s"
jetstream {
  store_dir: "/data"
  max_memory_store: {{ $nats.jetstream.memoryStore }}
  max_file_store: {{ $nats.jetstream.fileStore }}
}
tls {
  cert_file: "/etc/nats/tls/tls.crt"
  key_file: "/etc/nats/tls/tls.key"
  # Nobody sends a password before the line is encrypted.
  handshake_first: true
}
{{- if gt (int $nats.replicas) 1 }}
cluster {
  name: "shoal"
  listen: "0.0.0.0:6222"
  no_advertise: true
  authorization { user: "route", password: {{ get $passwords "route" | quote }} }
  tls {
    cert_file: "/etc/nats/tls/tls.crt"
    key_file: "/etc/nats/tls/tls.key"
    ca_file: "/etc/nats/tls/ca.crt"
    verify: true
  }
  routes: [
    {{- $root := .root }}
    {{- range $i := until (int $nats.replicas) }}
    {{ printf "nats-route://route:%s@shoal-nats-%d.shoal-nats-headless.%s.svc:6222" (get $passwords "route") $i $root.Release.Namespace | quote }}
    {{- end }}
  ]
}
{{- end }}
system_account: "SYS"
accounts {{ include "shoal.natsAccounts" . }}
{{- end -}}

{{/* An account for each user: those of the suite, and of nats.eventUsers. Arguments: root, passwords (by user). */}}
{{- define "shoal.natsAccounts" -}}
{{- $passwords := .passwords -}}
{{- $accounts := .root.Files.Get "files/nats-accounts.json" | fromJson -}}
{{- $template := .root.Files.Get "files/nats-event-user.json" -}}
{{- range $user := .root.Values.nats.eventUsers -}}
{{- $made := dict -}}
{{- range $queue := $user.queues -}}
{{- $one := $template | replace "{name}" $user.name | replace "{queue}" ($queue | replace "." "=2e") | fromJson -}}
{{- if not $made -}}
{{- $made = $one -}}
{{- else -}}
{{- $_ := set $made "imports" (concat $made.imports $one.imports | uniq) -}}
{{- $rights := (index $made.users 0).permissions -}}
{{- $_ := set $rights "publish" (concat $rights.publish (index $one.users 0).permissions.publish | uniq) -}}
{{- end -}}
{{- end -}}
{{- $account := printf "SHOAL_%s" ($user.name | replace "-" "_" | upper) -}}
{{- if hasKey $accounts $account -}}
{{- fail (printf "nats.eventUsers: the name %q is given twice, or is that of a service: take another" $user.name) -}}
{{- end -}}
{{- $_ := set $accounts $account $made -}}
{{- end -}}
{{- range $account := $accounts -}}
{{- range $user := $account.users -}}
{{- $_ := set $user "password" (get $passwords $user.user) -}}
{{- end -}}
{{- end -}}
{{- toRawJson (set $accounts "SYS" dict) -}}
{{- end -}}

{{/* Names of all users of the bus, and `route`, as JSON. */}}
{{- define "shoal.natsUsers" -}}
{{- $names := list "route" -}}
{{- range $account := include "shoal.natsAccounts" (dict "root" . "passwords" dict) | fromJson -}}
{{- range $user := $account.users -}}
{{- $names = append $names $user.user -}}
{{- end -}}
{{- end -}}
{{- toJson ($names | sortAlpha) -}}
{{- end -}}
