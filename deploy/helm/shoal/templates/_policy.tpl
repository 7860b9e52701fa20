{{/* The scheduler's configuration in the reference's format, of its default table and the values. */}}
{{- define "shoal.policy" -}}
{{- $values := .Values.scheduler -}}
{{- $spread := eq $values.placementStrategy "spread" -}}
{{- $plugins := .Files.Get "files/plugins.yaml" | fromYaml -}}
{{- range $name := ternary (list "gpupack" "gpusharingorder") (list "gpuspread") $spread -}}
{{- $_ := set (get $plugins $name) "enabled" false -}}
{{- end -}}
{{- $_ := set (get $plugins "nodeplacement") "arguments" (dict "gpu" $values.placementStrategy "cpu" $values.placementStrategy) -}}
{{- range $name, $given := $values.plugins -}}
{{- $_ := set $plugins $name (mergeOverwrite (dict "enabled" true "priority" 0) (get $plugins $name | default dict | deepCopy) (deepCopy $given)) -}}
{{- end -}}
{{- $actions := dict "allocate" (dict "priority" 500) "consolidation" (dict "priority" 400 "enabled" (not $spread)) "reclaim" (dict "priority" 300) "preempt" (dict "priority" 200) "stalegangeviction" (dict "priority" 100) -}}
{{- range $name, $given := $values.actions -}}
{{- $_ := set $actions $name (mergeOverwrite (get $actions $name) (deepCopy $given)) -}}
{{- end -}}
{{- $names := list -}}
{{- range $line := include "shoal.byPriority" $actions | fromYamlArray -}}{{- $names = append $names $line -}}{{- end -}}
{{- if not $names -}}{{- fail "scheduler.actions: at least one has to be enabled" -}}{{- end -}}
{{- $list := list -}}
{{- range $name := include "shoal.byPriority" $plugins | fromYamlArray -}}
{{- $one := dict "name" $name -}}
{{- with (get $plugins $name).arguments -}}{{- $_ := set $one "arguments" . -}}{{- end -}}
{{- $list = append $list $one -}}
{{- end -}}
{{- $policy := dict "actions" (join ", " $names) "tiers" (list (dict "plugins" $list)) -}}
{{- with $values.scenarioSearchBudgets -}}{{- $_ := set $policy "scenarioSearchBudgets" . -}}{{- end -}}
{{- toYaml $policy -}}
{{- end -}}

{{/* Names of the enabled entries, highest priority first, ties by name. */}}
{{- define "shoal.byPriority" -}}
{{- $keys := list -}}
{{- range $name, $entry := . -}}
{{- if or (not (hasKey $entry "enabled")) $entry.enabled -}}
{{- $keys = append $keys (printf "%012d %s" (sub 1000000000 (int $entry.priority)) $name) -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range $key := sortAlpha $keys -}}{{- $names = append $names (splitList " " $key | last) -}}{{- end -}}
{{- toYaml $names -}}
{{- end -}}
