"""JSON schemas of the ray.io/v1 resources of KubeRay 1.7. They are written by hand and reject unknown fields.

No package contains KubeRay's CRDs. The parts of them that Kubernetes defines (pod templates, resources, security
contexts) are validated against Kubernetes' own schemas by the tests.
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
NUMBER: Schema = {"type": "number"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
KUBERNETES: Schema = {"type": "object"}
KUBERNETES_LIST: Schema = {"type": "array", "items": KUBERNETES}


def choice(*values: str) -> Schema:
    return {"enum": list(values)}


def fields(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


GROUP: dict[str, Schema] = {"rayStartParams": TEXTS, "template": KUBERNETES, "resources": TEXTS, "labels": TEXTS}
CLUSTER = fields(
    "headGroupSpec",
    authOptions=fields(mode=choice("disabled", "token"), secretName=TEXT, enableK8sTokenAuth=TRUTH),
    autoscalerOptions=fields(
        env=KUBERNETES_LIST,
        envFrom=KUBERNETES_LIST,
        idleTimeoutSeconds=COUNT,
        image=TEXT,
        imagePullPolicy=choice("Always", "IfNotPresent", "Never"),
        resources=KUBERNETES,
        securityContext=KUBERNETES,
        upscalingMode=choice("Default", "Aggressive", "Conservative"),
        version=choice("v1", "v2"),
        volumeMounts=KUBERNETES_LIST,
    ),
    enableInTreeAutoscaling=TRUTH,
    gcsFaultToleranceOptions=KUBERNETES,
    headGroupSpec=fields("template", **GROUP, enableIngress=TRUTH, headService=KUBERNETES, serviceType=TEXT),
    headServiceAnnotations=TEXTS,
    historyServerOptions=KUBERNETES,
    managedBy=TEXT,
    networkPolicy=KUBERNETES,
    rayVersion=TEXT,
    suspend=TRUTH,
    tlsOptions=fields(enabled=TRUTH),
    upgradeStrategy=fields("type", type=choice("Recreate", "None")),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            "groupName",
            "maxReplicas",
            "minReplicas",
            "template",
            **GROUP,
            groupName=TEXT,
            idleTimeoutSeconds=COUNT,
            maxReplicas=COUNT,
            minReplicas=COUNT,
            numOfHosts=COUNT,
            replicas=COUNT,
            scaleStrategy=KUBERNETES,
            suspend=TRUTH,
        ),
    },
)
JOB = fields(
    activeDeadlineSeconds=COUNT,
    backoffLimit=COUNT,
    clusterSelector=TEXTS,
    deletionStrategy=KUBERNETES,
    entrypoint=TEXT,
    entrypointMemory=NUMBER,
    entrypointNumCpus=NUMBER,
    entrypointNumGpus=NUMBER,
    entrypointResources=TEXT,
    jobId=TEXT,
    managedBy=TEXT,
    metadata=TEXTS,
    preRunningDeadlineSeconds=COUNT,
    rayClusterSpec=CLUSTER,
    runtimeEnvYAML=TEXT,
    shutdownAfterJobFinishes=TRUTH,
    submissionMode=choice("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterConfig=KUBERNETES,
    submitterPodTemplate=KUBERNETES,
    suspend=TRUTH,
    ttlSecondsAfterFinished=COUNT,
)
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB}
