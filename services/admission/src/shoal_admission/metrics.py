"""All instruments of admission."""

from shoal_service.metrics import Counter, Gauge, Histogram

REVIEWS = Counter("shoal_admission_reviews", "Reviews by hook and result: accepted, patched, refused", ["hook", "result"])
WARNED = Counter("shoal_admission_warned", "Reviews that were answered with warnings", ["hook"])
FAILED = Counter("shoal_admission_failed", "Requests that got no verdict, by what was wrong", ["why"])
SECONDS = Histogram(
    "shoal_admission_seconds", "Seconds from the request's head to the verdict", ["hook"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1, 5),
)  # fmt: skip
EXPIRES = Gauge("shoal_admission_certificate_expires", "When the certificate ends, seconds since the epoch", ["which"])
ROTATED = Counter("shoal_admission_certificates_loaded", "Serving certificates that were loaded")
