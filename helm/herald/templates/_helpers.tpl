{{/*
Names: short enough that what is added to them still fits into 63 letters. A Deployment's pods are
called after it in full up to 46: beyond, Kubernetes cuts off where `herald.podPattern` looks.
*/}}
{{- define "herald.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "herald.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "herald.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* For Prometheus: the pods of this release, and of no other in its namespace. */}}
{{- define "herald.podPattern" -}}
{{- printf "%s-[a-z0-9]+-[a-z0-9]+" (include "herald.fullname" .) -}}
{{- end -}}

{{- define "herald.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "herald.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "herald.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Labels */}}
{{- define "herald.selectorLabels" -}}
app.kubernetes.io/name: {{ include "herald.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* By which Herald's own pods are found, and not the one of `helm test`. */}}
{{- define "herald.podSelector" -}}
{{ include "herald.selectorLabels" . }}
app.kubernetes.io/component: server
{{- end -}}

{{/*
One map of several, given as a list: the first that has a name counts. Written one after another,
a name could be there twice, which Helm takes and others do not (kustomize, and Flux through it).
*/}}
{{- define "herald.merged" -}}
{{- $all := dict -}}
{{- range . -}}
{{- $all = merge $all (default (dict) .) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* On every object. */}}
{{- define "herald.labels" -}}
{{- include "herald.labelsOf" (dict "root" .) -}}
{{- end -}}

{{/* The same, with a `component`, further `labels`, and `first` those that may change the others. */}}
{{- define "herald.labelsOf" -}}
{{- $own := include "herald.selectorLabels" .root | fromYaml -}}
{{- with .component -}}
{{- $_ := set $own "app.kubernetes.io/component" . -}}
{{- end -}}
{{- with .root -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $_ := set $own "app.kubernetes.io/version" (default .Chart.AppVersion .Values.image.tag | replace "+" "_" | trunc 63 | trimAll "-_.") -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- end -}}
{{- include "herald.merged" (list .first $own .labels .root.Values.commonLabels) -}}
{{- end -}}

{{/* Text of a number: Helm holds 67108864 as 6.7108864e+07, and JSON writes it out. */}}
{{- define "herald.text" -}}
{{- if kindIs "string" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{/* Bytes of a Kubernetes quantity, as 512Mi. */}}
{{- define "herald.bytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $text := include "herald.text" . -}}
{{- $digits := regexFind "^[0-9]+([.][0-9]+)?" $text -}}
{{- $unit := trimPrefix $digits $text -}}
{{- if or (not $digits) (not (hasKey $units $unit)) -}}
{{- fail (printf "\n\nHerald cannot be installed so:\n  - %q is no size: write it as 512Mi or 1Gi.\n" $text) -}}
{{- end -}}
{{- mulf (float64 $digits) (default 1 (get $units $unit)) | int64 -}}
{{- end -}}

{{/* Milliseconds of a duration, as 1m30s. */}}
{{- define "herald.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" . -1 -}}
{{- $digits := regexFind "^[0-9]+" . -}}
{{- $sum = add $sum (mul (int64 $digits) (get $units (trimPrefix $digits .))) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* HERALD_MAX_CONNECTIONS; empty where nothing says how much memory there is. */}}
{{- define "herald.maxConnections" -}}
{{- if .Values.config.maxConnections -}}
{{- int64 .Values.config.maxConnections -}}
{{- else if dig "limits" "memory" "" (default (dict) .Values.resources) -}}
{{- $workers := default 1 .Values.config.workers | int64 -}}
{{- $limit := include "herald.bytes" .Values.resources.limits.memory | int64 -}}
{{- $reserve := include "herald.bytes" .Values.capacity.reserve | int64 | mul $workers -}}
{{- $fit := div (sub $limit $reserve) (int64 .Values.capacity.bytesPerConnection) -}}
{{- div (min $fit (int64 .Values.capacity.ceiling)) $workers -}}
{{- end -}}
{{- end -}}

{{/* Connections of all processes of a pod. */}}
{{- define "herald.podConnections" -}}
{{- $each := include "herald.maxConnections" . -}}
{{- if $each -}}
{{- mul (int64 $each) (default 1 .Values.config.workers | int64) -}}
{{- end -}}
{{- end -}}

{{/* Connections of the average pod from which one more is started. */}}
{{- define "herald.connectionsPerPod" -}}
{{- if .Values.autoscaling.connectionsPerPod -}}
{{- int64 .Values.autoscaling.connectionsPerPod -}}
{{- else -}}
{{- max 1 (div (include "herald.podConnections" . | default (toString (int64 .Values.capacity.ceiling)) | int64) 2) -}}
{{- end -}}
{{- end -}}

{{- define "herald.drainSeconds" -}}
{{- if hasKey .Values.config "drainSeconds" -}}{{ ceil .Values.config.drainSeconds | int64 }}{{- else -}}30{{- end -}}
{{- end -}}

{{/* preStop counts within the grace period. */}}
{{- define "herald.gracePeriod" -}}
{{- add (int64 .Values.termination.preStopSleepSeconds) (include "herald.drainSeconds" . | int64) (int64 .Values.termination.marginSeconds) -}}
{{- end -}}

{{/*
A Deployment does not wait for a pod that ends before it goes on; it waits for the new one to have
been ready for so long. So by then the drain that began with it is over.
*/}}
{{- define "herald.minReadySeconds" -}}
{{- if kindIs "invalid" .Values.rollout.minReadySeconds -}}
{{- add (int64 .Values.termination.preStopSleepSeconds) (include "herald.drainSeconds" . | int64) -}}
{{- else -}}
{{- int64 .Values.rollout.minReadySeconds -}}
{{- end -}}
{{- end -}}

{{/* The fewest pods that there are when all is well. */}}
{{- define "herald.fewestPods" -}}
{{- ternary .Values.replicaCount .Values.autoscaling.minReplicas (eq .Values.autoscaling.type "none") | int64 -}}
{{- end -}}

{{/* Not empty where the budget lets no pod be evicted, so that no node can be drained. */}}
{{- define "herald.noEviction" -}}
{{- $pods := include "herald.fewestPods" . | int64 -}}
{{- with .Values.podDisruptionBudget -}}
{{- if and .enabled $pods -}}
{{- if kindIs "invalid" .minAvailable -}}
{{- if has (toString .maxUnavailable) (list "0" "0%") -}}yes{{- end -}}
{{- else -}}
{{- $text := toString .minAvailable -}}
{{- $kept := $text | trimSuffix "%" | int64 -}}
{{- if hasSuffix "%" $text -}}
{{- $kept = ceil (divf (mulf $kept $pods) 100) | int64 -}}
{{- end -}}
{{- if ge $kept $pods -}}yes{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Service of the official Valkey chart, which is named by its own rules. */}}
{{- define "herald.trialEngine" -}}
{{- $valkey := dig "valkey" (dict) .Values.trial -}}
{{- if dig "fullnameOverride" "" $valkey -}}
{{- $valkey.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := dig "nameOverride" "" $valkey | default "valkey" -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Of a trial, a secret that is made up once and kept by later upgrades. */}}
{{- define "herald.madeUp" -}}
{{- $kept := lookup "v1" "Secret" .root.Release.Namespace (include "herald.fullname" .root) -}}
{{- $old := dig "data" .key "" (default (dict) $kept) -}}
{{- if $old -}}{{ b64dec $old }}{{- else -}}{{ randAlphaNum 40 }}{{- end -}}
{{- end -}}

{{/* What goes into the chart's own Secret, as JSON: what has no Secret of yours. */}}
{{- define "herald.secretData" -}}
{{- $data := dict -}}
{{- if .Values.trial.enabled -}}
{{- $_ := set $data "redis-url" (printf "redis://%s:%v/0" (include "herald.trialEngine" .) (dig "valkey" "service" "port" 6379 .Values.trial)) -}}
{{- else if and .Values.engine.url (not .Values.engine.passwordSecret.name) -}}
{{- $_ := set $data "redis-url" .Values.engine.url -}}
{{- end -}}
{{- if .Values.auth.jwtSecret.value -}}
{{- $_ := set $data "jwt-secret" .Values.auth.jwtSecret.value -}}
{{- else if and .Values.trial.enabled (not (include "herald.ownKeys" .)) -}}
{{- $_ := set $data "jwt-secret" (include "herald.madeUp" (dict "root" . "key" "jwt-secret")) -}}
{{- end -}}
{{- if .Values.publishers.apiKeys -}}
{{- $_ := set $data "api-keys" (join "\n" .Values.publishers.apiKeys) -}}
{{- else if and .Values.trial.enabled (not .Values.publishers.existingSecret.name) -}}
{{- $_ := set $data "api-keys" (include "herald.madeUp" (dict "root" . "key" "api-keys")) -}}
{{- end -}}
{{- toJson $data -}}
{{- end -}}

{{/* Not empty where a source of users' keys is given that is not jwtSecret.value. */}}
{{- define "herald.ownKeys" -}}
{{- with .Values.auth -}}
{{- if or .jwtSecret.existingSecret.name .publicKey.pem .publicKey.existingSecret.name .jwksUrl -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* The settings that are no secret, as JSON: name to text. */}}
{{- define "herald.settings" -}}
{{- $data := dict "HERALD_PORT" (include "herald.text" .Values.ports.clients) "HERALD_API_PORT" (include "herald.text" .Values.ports.api) -}}
{{- range $key, $value := .Values.config -}}
{{- if not (or (kindIs "invalid" $value) (and (kindIs "slice" $value) (not $value))) -}}
{{- $text := ternary (join "," $value) (include "herald.text" $value) (kindIs "slice" $value) -}}
{{- $_ := set $data (printf "HERALD_%s" ($key | snakecase | upper)) $text -}}
{{- end -}}
{{- end -}}
{{- with include "herald.maxConnections" . -}}
{{- $_ := set $data "HERALD_MAX_CONNECTIONS" . -}}
{{- end -}}
{{- with .Values.auth.jwksUrl -}}
{{- $_ := set $data "HERALD_JWT_JWKS_URL" . -}}
{{- end -}}
{{- toJson $data -}}
{{- end -}}

{{/*
Where each secret is, as JSON: the setting, the Secret and its key. Secrets are files and not
environment variables, which crash reports and `kubectl describe` show.
*/}}
{{- define "herald.secretFiles" -}}
{{- $own := include "herald.fullname" . -}}
{{- $made := include "herald.secretData" . | fromJson -}}
{{- $files := list -}}
{{- if hasKey $made "redis-url" -}}
{{- $files = append $files (dict "setting" "HERALD_REDIS_URL_FILE" "file" "redis-url" "secret" $own "key" "redis-url") -}}
{{- else if .Values.engine.existingSecret.name -}}
{{- $files = append $files (dict "setting" "HERALD_REDIS_URL_FILE" "file" "redis-url" "secret" .Values.engine.existingSecret.name "key" .Values.engine.existingSecret.key) -}}
{{- end -}}
{{- if hasKey $made "jwt-secret" -}}
{{- $files = append $files (dict "setting" "HERALD_JWT_SECRET_FILE" "file" "jwt-secret" "secret" $own "key" "jwt-secret") -}}
{{- else if .Values.auth.jwtSecret.existingSecret.name -}}
{{- $files = append $files (dict "setting" "HERALD_JWT_SECRET_FILE" "file" "jwt-secret" "secret" .Values.auth.jwtSecret.existingSecret.name "key" .Values.auth.jwtSecret.existingSecret.key) -}}
{{- else if .Values.auth.publicKey.existingSecret.name -}}
{{- $files = append $files (dict "setting" "HERALD_JWT_PUBLIC_KEY_FILE" "file" "jwt-public-key.pem" "secret" .Values.auth.publicKey.existingSecret.name "key" .Values.auth.publicKey.existingSecret.key) -}}
{{- else if .Values.auth.publicKey.pem -}}
{{- $files = append $files (dict "setting" "HERALD_JWT_PUBLIC_KEY_FILE" "file" "jwt-public-key.pem" "configMap" (printf "%s-public-key" $own) "key" "jwt-public-key.pem") -}}
{{- end -}}
{{- if hasKey $made "api-keys" -}}
{{- $files = append $files (dict "setting" "HERALD_API_KEYS_FILE" "file" "api-keys" "secret" $own "key" "api-keys") -}}
{{- else if .Values.publishers.existingSecret.name -}}
{{- $files = append $files (dict "setting" "HERALD_API_KEYS_FILE" "file" "api-keys" "secret" .Values.publishers.existingSecret.name "key" .Values.publishers.existingSecret.key) -}}
{{- end -}}
{{- toJson $files -}}
{{- end -}}

{{/* By these annotations new pods start where a setting or a key has changed. */}}
{{- define "herald.checksums" -}}
checksum/config: {{ include "herald.settings" . | cat .Values.auth.publicKey.pem | sha256sum }}
{{- if not .Values.trial.enabled }}
checksum/secret: {{ include "herald.secretData" . | sha256sum }}
{{- end }}
{{- end -}}
