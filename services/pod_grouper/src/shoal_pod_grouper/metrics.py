"""All instruments of pod-grouper."""

from shoal_service.metrics import Counter

GROUPS = Counter("shoal_grouper_groups", "PodGroups written", ["what"])
PODS = Counter("shoal_grouper_pods_patched", "Pods that were given their group")
FORBIDDEN = Counter("shoal_grouper_forbidden_owners", "Owners of pods that could not be read for lack of rights", ["kind"])
FAILED = Counter("shoal_grouper_failures", "Pods that could not be grouped at a try")
