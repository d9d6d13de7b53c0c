{{/* One agent to a node, so one name to a cluster: sockets, plugin and table have one too. */}}
{{- define "weir.name" -}}weir{{- end }}

{{- define "weir.selectorLabels" -}}
app.kubernetes.io/name: {{ include "weir.name" . }}
app.kubernetes.io/component: agent
{{- end }}

{{/* Not operator.istio.io/component: `istioctl install` prunes what bears it, and `istioctl uninstall` deletes it. */}}
{{- define "weir.labels" -}}
app.kubernetes.io/name: {{ include "weir.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "weir.platform" -}}
{{- $named := coalesce .Values.platform (.Values.global).platform "" -}}
{{- if and (not $named) (contains "-gke" .Capabilities.KubeVersion.Version) }}{{ $named = "gke" }}{{ end -}}
{{- $known := .Files.Get "files/platforms.yaml" | fromYaml -}}
{{- if and $named (not (hasKey $known $named)) -}}
{{- fail (printf "platform = %q: wants one of %s, or nothing for any other" $named (keys $known | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if $named }}{{ get $known $named | toYaml }}{{ else }}{}{{ end -}}
{{- end }}

{{/* A folder of the node's: (list . "cniBinDir" "/opt/cni/bin"), by value, platform, or default. */}}
{{- define "weir.folder" -}}
{{- $top := index . 0 -}}{{- $name := index . 1 -}}
{{- $platform := include "weir.platform" $top | fromYaml -}}
{{- coalesce (get $top.Values $name) (get $platform $name) (index . 2) | trimSuffix "/" | default "/" -}}
{{- end }}
{{- define "weir.cniBinDir" }}{{ include "weir.folder" (list . "cniBinDir" "/opt/cni/bin") }}{{ end }}
{{- define "weir.cniConfDir" }}{{ include "weir.folder" (list . "cniConfDir" "/etc/cni/net.d") }}{{ end }}
{{- define "weir.cniNetnsDir" }}{{ include "weir.folder" (list . "cniNetnsDir" "/var/run/netns") }}{{ end }}

{{- define "weir.image" -}}
{{- $global := .Values.global | default dict -}}
{{- if contains "/" .Values.image -}}
{{ .Values.image }}
{{- else -}}
{{- $hub := .Values.hub -}}
{{- if and (eq $hub "localhost") $global.hub }}{{ $hub = $global.hub }}{{ end -}}
{{ $hub }}/{{ .Values.image }}:{{ coalesce .Values.tag ($global.tag | default "" | toString) .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "weir.pullPolicy" -}}
{{- with coalesce .Values.pullPolicy (.Values.global).imagePullPolicy "" -}}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{- define "weir.pullSecrets" -}}
{{- with coalesce .Values.imagePullSecrets (.Values.global).imagePullSecrets -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "weir.metrics" }}{{ if or .Values.metrics.enabled .Values.podMonitor.enabled }}true{{ end }}{{ end }}

{{/* weir.toml. JSON's scalars and lists are TOML's as well, and toToml would make 25.0 of 25. */}}
{{- define "weir.toml" -}}
{{- $settings := dict "dns" .Values.ambient.dnsCapture -}}
{{- if not .Values.ambient.ipv6 }}{{ $_ := set $settings "families" (list "ipv4") }}{{ end -}}
[defaults]
{{- range $name, $value := merge (deepCopy .Values.capture) $settings }}
{{ $name }} = {{ $value | toJson }}
{{- end }}
{{- end }}

{{/* What a hook's pod has of its own: nothing but the API. */}}
{{- define "weir.hookSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65534
  runAsGroup: 65534
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end }}
