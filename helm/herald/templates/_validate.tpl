{{/*
What a schema cannot say, or not in words that help. All that is wrong is told at once.
*/}}
{{- define "herald.validate" -}}
{{- $wrong := list -}}
{{- with .Values -}}
{{- if not .image.repository -}}
{{- $wrong = append $wrong "image.repository is not set: build the image from the Dockerfile, push it where the cluster finds it, and give its name." -}}
{{- end -}}
{{- $engines := len (compact (list .engine.url .engine.existingSecret.name (ternary "trial" "" .trial.enabled))) -}}
{{- if eq $engines 0 -}}
{{- $wrong = append $wrong "there is no engine: set engine.url (redis://…) or engine.existingSecret.name; to try it out, trial.enabled=true." -}}
{{- else if gt $engines 1 -}}
{{- $wrong = append $wrong "there are several engines: set one of engine.url, engine.existingSecret.name and trial.enabled." -}}
{{- end -}}
{{- if and .engine.passwordSecret.name (not (contains "$(ENGINE_PASSWORD)" .engine.url)) -}}
{{- $wrong = append $wrong "engine.passwordSecret is set, but engine.url has no $(ENGINE_PASSWORD): write it where the password belongs." -}}
{{- end -}}
{{- if and (contains "$(" .engine.url) (not .engine.passwordSecret.name) -}}
{{- $wrong = append $wrong "engine.url has a $(…), but engine.passwordSecret.name is not set." -}}
{{- end -}}
{{- $keys := len (compact (list .auth.jwtSecret.value .auth.jwtSecret.existingSecret.name .auth.publicKey.pem .auth.publicKey.existingSecret.name .auth.jwksUrl)) -}}
{{- if and (eq $keys 0) (not .trial.enabled) -}}
{{- $wrong = append $wrong "nothing verifies users' tokens: set auth.jwtSecret, auth.publicKey or auth.jwksUrl." -}}
{{- else if gt $keys 1 -}}
{{- $wrong = append $wrong "several things verify users' tokens: set one of auth.jwtSecret (value or existingSecret), auth.publicKey (pem or existingSecret) and auth.jwksUrl." -}}
{{- end -}}
{{- if and .publishers.apiKeys .publishers.existingSecret.name -}}
{{- $wrong = append $wrong "publishers.apiKeys and publishers.existingSecret are both set: set one." -}}
{{- else if not (or .publishers.apiKeys .publishers.existingSecret.name .trial.enabled) -}}
{{- $wrong = append $wrong "nobody may publish: set publishers.existingSecret.name or publishers.apiKeys." -}}
{{- end -}}
{{- if eq (int64 .ports.clients) (int64 .ports.api) -}}
{{- $wrong = append $wrong "ports.clients and ports.api are the same." -}}
{{- end -}}
{{- if and .config.minReplicas (gt (float64 (default 1 .config.replicaTimeout)) (divf (float64 (default 5 .config.engineTimeout)) 2)) -}}
{{- $wrong = append $wrong "config.replicaTimeout is more than half of config.engineTimeout (default 5)." -}}
{{- end -}}
{{- if le (include "herald.maxConnections" $ | default "1" | int64) 0 -}}
{{- $each := ternary (printf " for each of %d workers" (default 1 .config.workers | int64)) "" (gt (default 1 .config.workers | int64) 1) -}}
{{- $wrong = append $wrong (printf "resources.limits.memory (%v) leaves no room for connections: capacity.reserve is %v%s." .resources.limits.memory .capacity.reserve $each) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "herald.fullname" $)) -}}
{{- $wrong = append $wrong (printf "%q is no name of a Service: set fullnameOverride to one that begins with a letter and has no dot." (include "herald.fullname" $)) -}}
{{- end -}}
{{- if ne .autoscaling.type "none" -}}
{{- if gt (int64 .autoscaling.minReplicas) (int64 .autoscaling.maxReplicas) -}}
{{- $wrong = append $wrong "autoscaling.minReplicas is more than autoscaling.maxReplicas." -}}
{{- end -}}
{{- $room := include "herald.podConnections" $ -}}
{{- if and $room (gt (include "herald.connectionsPerPod" $ | int64) (int64 $room)) -}}
{{- $wrong = append $wrong (printf "autoscaling.connectionsPerPod is more than a pod takes (%s): it would be full before another is started." $room) -}}
{{- end -}}
{{- if and (eq .autoscaling.type "keda") (not .autoscaling.keda.serverAddress) -}}
{{- $wrong = append $wrong "autoscaling.type is keda, but autoscaling.keda.serverAddress, Prometheus's address, is not set." -}}
{{- end -}}
{{- end -}}
{{- if and .podDisruptionBudget.enabled (eq (kindIs "invalid" .podDisruptionBudget.minAvailable) (kindIs "invalid" .podDisruptionBudget.maxUnavailable)) -}}
{{- $wrong = append $wrong "podDisruptionBudget: set one of minAvailable and maxUnavailable, and the other to null." -}}
{{- end -}}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) -}}
{{- $wrong = append $wrong "httpRoute.enabled is set, but httpRoute.parentRefs, the Gateway, is not." -}}
{{- end -}}
{{- if and .metrics.serviceMonitor.enabled .metrics.podMonitor.enabled -}}
{{- $wrong = append $wrong "metrics.serviceMonitor and metrics.podMonitor are both enabled: everything would be counted twice." -}}
{{- end -}}
{{- range $kind := list "serviceMonitor" "podMonitor" -}}
{{- with index $.Values.metrics $kind -}}
{{- if and .enabled (gt (include "herald.milliseconds" .scrapeTimeout | int64) (include "herald.milliseconds" .interval | int64)) -}}
{{- $wrong = append $wrong (printf "metrics.%s.scrapeTimeout (%s) is more than its interval (%s): the Prometheus operator would not take it." $kind .scrapeTimeout .interval) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq .service.type "ClusterIP" -}}
{{- range $name := list "nodePort" "externalTrafficPolicy" -}}
{{- if index $.Values.service $name -}}
{{- $wrong = append $wrong (printf "service.%s needs service.type NodePort or LoadBalancer." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if ne .service.type "LoadBalancer" -}}
{{- range $name := list "loadBalancerClass" "loadBalancerSourceRanges" -}}
{{- if index $.Values.service $name -}}
{{- $wrong = append $wrong (printf "service.%s needs service.type LoadBalancer." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name := list "service" "apiService" -}}
{{- $policy := (index $.Values $name).ipFamilyPolicy -}}
{{- if and (has $policy (list "PreferDualStack" "RequireDualStack")) (eq (default "0.0.0.0" $.Values.config.host) "0.0.0.0") -}}
{{- $wrong = append $wrong (printf "%s.ipFamilyPolicy is %s, but config.host 0.0.0.0 takes IPv4 alone: set config.host to \"::\"." $name $policy) -}}
{{- end -}}
{{- end -}}
{{- if and .deletionCost.enabled (not .serviceAccount.create) (not .serviceAccount.name) -}}
{{- $wrong = append $wrong "deletionCost needs a service account of its own: set serviceAccount.create or serviceAccount.name." -}}
{{- end -}}
{{- range .extraEnv -}}
{{- if hasPrefix "HERALD_" .name -}}
{{- $wrong = append $wrong (printf "extraEnv has %s: Herald's settings belong in config, keys in engine, auth and publishers." .name) -}}
{{- end -}}
{{- end -}}
{{- if .trial.enabled -}}
{{- if not (hasKey $.Subcharts.trial.Subcharts "valkey") -}}
{{- $wrong = append $wrong "trial.enabled needs the official Valkey chart: helm dependency update helm/herald/charts/trial" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\nHerald cannot be installed so:\n  - %s\n" (join "\n  - " $wrong)) -}}
{{- end -}}
{{- end -}}
