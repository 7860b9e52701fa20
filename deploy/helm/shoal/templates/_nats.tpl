{{/* The server's configuration. Arguments: root, users (permissions by user), passwords. */}}
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
accounts {
  SYS: {}
  SHOAL: {
    jetstream: enabled
    users: [
      {{- range $user, $permissions := .users }}
      {user: {{ $user | quote }}, password: {{ get $passwords $user | quote }}, permissions: {{ toRawJson $permissions }}}
      {{- end }}
    ]
  }
}
{{- end -}}
