"""What makes a process a good citizen: settings, logs, health, metrics, traces, an orderly end."""

from shoal_service.clock import Clock
from shoal_service.config import BadConfig, Common
from shoal_service.main import Context, run

__all__ = ["BadConfig", "Clock", "Common", "Context", "run"]
