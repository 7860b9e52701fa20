"""All instruments of cluster-state."""

from shoal_service.metrics import Counter, Gauge

SEEN = Counter("shoal_state_objects_seen", "Objects read from the API", ["kind"])
BAD = Counter("shoal_state_objects_bad", "Objects that can't be read, or not be sent", ["kind"])
PUBLISHED = Counter("shoal_state_records_published", "Records and deletions published")
HELD = Gauge("shoal_state_records_held", "Records that the API's objects make")
BEHIND = Gauge("shoal_state_records_behind", "Records not published yet")
