"""Values in combinations that people use, beside the examples."""

from __future__ import annotations

from typing import Any

PEM = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""
_NO_JWT_SECRET = {"jwtSecret": {"existingSecret": {"name": ""}}}
_EVERY_SETTING = {
    "host": "::",
    "workers": 2,
    "jwtAlgorithms": ["HS256", "HS512"],
    "jwtAudience": "push",
    "jwtIssuer": "https://login.example.com/",
    "jwtLeeway": 0,
    "allowedOrigins": ["https://app.example.com", "https://www.example.com"],
    "heartbeatInterval": 12.5,
    "heartbeatTimeout": 5,
    "historySize": 1000000,
    "historyTtl": 31536000,
    "maxEventBytes": "64KiB",
    "maxBatchBytes": 67108864,
    "headTimeout": 5,
    "maxHeadBytes": 16384,
    "bodyTimeout": 60,
    "unreadTimeout": 60,
    "maxConnections": 1000000,
    "maxConnectionsPerUser": 5,
    "maxTopics": 0,
    "maxMessageBytes": "1MB",
    "maxPendingEvents": 2000000,
    "maxPendingBytes": 1073741824,
    "sendQueueBytes": "2 MiB",
    "connectTimeout": 0.2,
    "ticketTtl": 10,
    "drainSeconds": 12.2,
    "engineTimeout": 8,
    "minReplicas": 2,
    "replicaTimeout": 4,
    "positionCheckInterval": 15,
    "logLevel": "debug",
    "logFormat": "console",
}
_LISTS: dict[str, Any] = {
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "push", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "herald"}},
                }
            ]
        }
    },
    "priorityClassName": "high",
    "runtimeClassName": "gvisor",
    "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/ca/ca.crt"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    "initContainers": [{"name": "wait", "image": "registry.example.com/wait:1"}],
    "extraContainers": [{"name": "proxy", "image": "registry.example.com/proxy:1"}],
    "podAnnotations": {"prometheus.io/scrape": "true"},
    "podLabels": {"team": "push"},
    "commonLabels": {"cost-center": "17"},
    "topologySpreadConstraints": [],
    "service": {"annotations": {"a": "b"}, "labels": {"c": "d"}},
    "apiService": {"annotations": {"a": "b"}, "labels": {"c": "d"}},
    "serviceAccount": {"annotations": {"a": "b"}},
}

COMBINATIONS: dict[str, dict[str, Any]] = {
    "nothing more": {},
    "every setting": {"config": _EVERY_SETTING},
    "every list": _LISTS,
    "secrets of the chart": {
        "engine": {"url": "redis://herald:pass@valkey:6379/0", "existingSecret": {"name": ""}},
        "auth": {"jwtSecret": {"value": "x" * 32, "existingSecret": {"name": ""}}},
        "publishers": {"apiKeys": ["one", "sha256:" + "0" * 64], "existingSecret": {"name": ""}},
    },
    "the password alone": {
        "engine": {
            "url": "redis://herald:$(ENGINE_PASSWORD)@valkey:6379/0",
            "existingSecret": {"name": ""},
            "passwordSecret": {"name": "valkey-auth", "key": "valkey-password"},
        }
    },
    "an engine with TLS": {"engine": {"tlsSecret": "engine-tls"}},
    "a public key": {"auth": {**_NO_JWT_SECRET, "publicKey": {"pem": PEM}}},
    "a public key in a Secret": {
        "auth": {**_NO_JWT_SECRET, "publicKey": {"existingSecret": {"name": "issuer"}}}
    },
    "JWKS": {"auth": {**_NO_JWT_SECRET, "jwksUrl": "https://login.example.com/jwks.json"}},
    "HPA": {"autoscaling": {"type": "hpa"}},
    "HPA without behavior": {"autoscaling": {"type": "hpa", "behavior": None}},
    "KEDA": {
        "autoscaling": {
            "type": "keda",
            "keda": {
                "serverAddress": "http://prometheus:9090",
                "authenticationRef": {"name": "prometheus"},
            },
        }
    },
    "deletion cost": {"deletionCost": {"enabled": True}},
    "no preStop": {"termination": {"preStopSleepSeconds": 0}},
    "no memory limit": {"resources": {"limits": None}},
    "no policies": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "helmTest": {"enabled": False},
    },
    "egress": {
        "networkPolicy": {
            "egress": [
                {
                    "to": [{"podSelector": {"matchLabels": {"app": "valkey"}}}],
                    "ports": [{"port": 6379, "protocol": "TCP"}],
                }
            ]
        }
    },
    "minAvailable": {"podDisruptionBudget": {"maxUnavailable": None, "minAvailable": "80%"}},
    "no service account": {"serviceAccount": {"create": False}},
    "LoadBalancer": {
        "service": {
            "type": "LoadBalancer",
            "loadBalancerClass": "service.k8s.aws/nlb",
            "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "externalTrafficPolicy": "Local",
        }
    },
    "IPv4 and IPv6": {
        "config": {"host": "::"},
        "service": {"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack"},
        "apiService": {"ipFamilyPolicy": "PreferDualStack"},
    },
    "NodePort": {"service": {"type": "NodePort", "nodePort": 30080}},
    "an Ingress for every host": {"ingress": {"enabled": True}},
    "HTTPRoute": {
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
            "hostnames": ["push.example.com"],
            "timeouts": {"request": "0s", "backendRequest": "0s"},
            "filters": [
                {
                    "type": "ResponseHeaderModifier",
                    "responseHeaderModifier": {"remove": ["server"]},
                }
            ],
            "annotations": {"a": "b"},
            "labels": {"c": "d"},
        }
    },
    "ServiceMonitor": {
        "metrics": {
            "serviceMonitor": {
                "enabled": True,
                "labels": {"release": "prometheus"},
                "relabelings": [{"action": "labeldrop", "regex": "endpoint"}],
                "metricRelabelings": [
                    {"action": "drop", "sourceLabels": ["__name__"], "regex": "python_gc_.*"}
                ],
            },
            "prometheusRule": {
                "enabled": True,
                "extraGroups": [{"name": "own", "rules": [{"record": "a:b", "expr": "vector(1)"}]}],
            },
            "dashboard": {"enabled": True, "annotations": {"folder": "Push"}},
        }
    },
    "PodMonitor": {"metrics": {"podMonitor": {"enabled": True}}},
    "the same label at several places": {
        "commonLabels": {"team": "all", "app.kubernetes.io/part-of": "shop"},
        "podLabels": {"team": "pods"},
        "podAnnotations": {"kubectl.kubernetes.io/default-container": "proxy"},
        "service": {"labels": {"team": "clients", "app.kubernetes.io/component": "mine"}},
        "apiService": {"labels": {"team": "api"}},
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "public"}],
            "labels": {"team": "route"},
        },
        "metrics": {
            "serviceMonitor": {
                "enabled": True,
                "labels": {"team": "watch", "app.kubernetes.io/instance": "prometheus"},
            },
            "prometheusRule": {"enabled": True, "labels": {"team": "watch"}},
            "dashboard": {"enabled": True, "labels": {"team": "watch"}},
        },
    },
    "another name": {"fullnameOverride": "push", "nameOverride": "gateway"},
}
