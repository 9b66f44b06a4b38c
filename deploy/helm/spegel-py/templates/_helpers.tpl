{{/* Names. A release called like the chart, or like nameOverride, is not named twice. */}}
{{- define "spegel-py.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "spegel-py.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "spegel-py.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "spegel-py.serviceAccount" -}}
{{- default (include "spegel-py.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* What selects pods: as in Spegel's chart, so that with its name a release of it can be upgraded to this one. */}}
{{- define "spegel-py.selector" -}}
app.kubernetes.io/name: {{ include "spegel-py.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "spegel-py.labels" -}}
{{ include "spegel-py.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "spegel-py.metadata" -}}
name: {{ default (include "spegel-py.fullname" .top) .name }}{{ with .suffix }}-{{ . }}{{ end }}
namespace: {{ include "spegel-py.namespace" .top }}
labels:
  {{- with .component }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
  {{- include "spegel-py.labels" .top | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Values that were copied from Spegel's defaults and cannot be meant here: its image, and a Go process's memory. */}}
{{- define "spegel-py.image" -}}
{{- $image := .Values.image -}}
{{- if eq $image.repository "ghcr.io/spegel-org/spegel" -}}
{{ .Chart.Name }}:{{ .Chart.AppVersion }}
{{- else if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "spegel-py.resources" -}}
{{- $given := default dict .Values.resources -}}
{{- $memory := list (dig "requests" "memory" "" $given) (dig "limits" "memory" "" $given) -}}
{{- if eq (toJson $memory) (toJson (list "128Mi" "128Mi")) -}}
{{- $given = mergeOverwrite (deepCopy $given) (dict "requests" (dict "memory" "96Mi") "limits" (dict "memory" "384Mi")) -}}
{{- end -}}
{{- toYaml $given -}}
{{- end -}}

{{/* The mirrors that containerd asks, in this order. */}}
{{- define "spegel-py.targets" -}}
{{- $registry := .Values.service.registry -}}
{{- $targets := list -}}
{{- if .Values.runtime.port -}}
{{- $targets = append $targets (printf "http://127.0.0.1:%d" (int $registry.hostPort)) -}}
{{- else if not $registry.usePreferSameNodeTrafficDistribution -}}
{{- $targets = append $targets (printf "http://%s:%d" (default "$(NODE_IP)" $registry.hostIP) (int $registry.hostPort)) -}}
{{- end -}}
{{- if $registry.nodePort -}}
{{- $targets = append $targets (printf "http://$(NODE_IP):%d" (int $registry.nodePort)) -}}
{{- end -}}
{{- range concat $targets .Values.spegel.additionalMirrorTargets }}
- {{ printf "--mirror-targets=%s" . | quote }}
{{- end -}}
{{- end -}}

{{- define "spegel-py.registries" -}}
{{- range .Values.spegel.mirroredRegistries }}
- {{ printf "--mirrored-registries=%s" . | quote }}
{{- end -}}
{{- end -}}

{{/* Settings whose flag is named like their value, and that are left to the program where that is null. */}}
{{- define "spegel-py.settings" -}}
{{- $names := list "logFormat" "defaultRegistry" "oldTags" "tagPolicy" "tagsFromPeers" "tagWitnesses" "lists" "tagTtl" "mirrorResolveRetries" "mirrorResolveTimeout" "mirrorParallel" "shareInFlight" "shareInFlightSlots" "verifyBlobs" -}}
{{- $names = concat $names (list "maxTransfersPerPeer" "maxTransfers" "maxUploadRate") -}}
{{- $names = concat $names (list "healthInterval" "healthTimeout" "healthPasses" "healthFails") -}}
{{- $names = concat $names (list "healthPassiveFails" "healthPassiveFailTimeout") -}}
{{- $names = concat $names (list "announceInterval" "meshLimit" "replication" "peerProofs" "privateImages" "privateWhenDown") -}}
{{- $names = concat $names (list "zone" "replicaFloor" "replicaCeiling" "replicaKeep" "replicaMaxDisk" "replicaRate") -}}
{{- $names = concat $names (list "evacuateOnStop" "evacuateCordoned") -}}
{{- $names = concat $names (list "preheatFromPeers" "readyWhenPreheated" "controlSocket") -}}
{{- $names = concat $names (list "warnWhenIsolatedFor" "criticalWhenIsolatedFor" "readyWhenAlone" "tracingEndpoint") -}}
{{- $values := .Values.spegel -}}
{{- range $names -}}
{{- $value := get $values . -}}
{{- if not (kindIs "invalid" $value) }}
- {{ printf "--%s=%s" (kebabcase .) (include "spegel-py.text" $value) | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Text as the program reads it: whole numbers without an exponent, and off for false, which YAML makes of it. */}}
{{- define "spegel-py.text" -}}
{{- if kindIs "float64" . -}}{{ int64 . }}{{- else if kindIs "bool" . -}}{{ ternary "on" "off" . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* The parts that the Pods of both DaemonSets have in common. */}}
{{- define "spegel-py.podBasics" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The same for Pods that run where the values say. */}}
{{- define "spegel-py.pod" -}}
{{ include "spegel-py.podBasics" . }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "spegel-py.program" -}}
image: {{ include "spegel-py.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
# The line with which the program ends on an error is then in `kubectl describe pod`, too.
terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}

{{- define "spegel-py.container" -}}
{{ include "spegel-py.program" . }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "spegel-py.resources" . }}
resources:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The same with the rights to read, change and put back files in containerd's folder that belong to others than root. */}}
{{- define "spegel-py.containerForFiles" -}}
{{- $context := deepCopy (default dict .Values.securityContext) -}}
{{- $added := concat (dig "capabilities" "add" list $context) (list "CHOWN" "DAC_OVERRIDE" "FOWNER" "FSETID") | uniq -}}
{{- $context = mergeOverwrite $context (dict "capabilities" (dict "add" $added)) -}}
{{ include "spegel-py.container" (dict "Chart" .Chart "Values" (mergeOverwrite (deepCopy .Values) (dict "securityContext" $context))) }}
{{- end -}}

{{/* The name by which a node's registry recognises the requests of its own containerd. */}}
{{- define "spegel-py.nodeName" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- end -}}

{{- define "spegel-py.hook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
helm.sh/hook-output-log-policy: hook-failed
helm.sh/hook-weight: {{ . | quote }}
{{- end -}}

{{/* The file with the tokens of a node's containerd; empty without one. */}}
{{- define "spegel-py.runtimeToken" -}}
{{- if .Values.runtime.token -}}
{{- .Values.spegel.persistence.path }}/runtime-token
{{- end -}}
{{- end -}}

{{/* Values with which the runtime's token or port would not do what they are for. */}}
{{- define "spegel-py.checkRuntime" -}}
{{- if and (or .Values.runtime.token .Values.runtime.port) .Values.service.registry.nodePort -}}
{{- fail "runtime.token and runtime.port refuse the containerd of other nodes, which comes through the node port: set service.registry.nodePort to 0" -}}
{{- end -}}
{{- if and .Values.runtime.token (not .Values.spegel.persistence.enabled) -}}
{{- fail "runtime.token is kept below spegel.persistence.path: set spegel.persistence.enabled to true" -}}
{{- end -}}
{{- if and .Values.runtime.token (not .Values.spegel.containerdMirrorAdd) -}}
{{- fail "runtime.token is written into hosts.toml by this chart: set spegel.containerdMirrorAdd to true" -}}
{{- end -}}
{{- if include "spegel-py.guardsImages" . -}}
{{- if not .Values.runtime.token -}}
{{- fail "spegel.privateImages: guard knows a node's containerd by its token: set runtime.token to true" -}}
{{- end -}}
{{- if .Values.basicAuthSecretName -}}
{{- fail "spegel.privateImages: guard and basicAuthSecretName need the same header: leave basicAuthSecretName out, and set spegel.peerProofs to require" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.runtime.port .Values.service.registry.usePreferSameNodeTrafficDistribution -}}
{{- fail "runtime.port is reached through a hostPort: set service.registry.usePreferSameNodeTrafficDistribution to false" -}}
{{- end -}}
{{- end -}}

{{/* Whether private images are guarded; empty for no. */}}
{{- define "spegel-py.guardsImages" -}}
{{- if eq (toString .Values.spegel.privateImages) "guard" -}}true{{- end -}}
{{- end -}}

{{/* The Secret with the cluster's keys; empty without one. */}}
{{- define "spegel-py.clusterKeysSecret" -}}
{{- if .Values.clusterKeys.secretName -}}
{{- .Values.clusterKeys.secretName -}}
{{- else if .Values.clusterKeys.generate -}}
{{- include "spegel-py.fullname" . }}-cluster-keys
{{- end -}}
{{- end -}}
