"""Where numba looks for compiled kernels in an image: a folder that may be read-only, as the whole file system of a pod is.

Numba's own locators pass over a folder that can't be written to, and then every start compiles all kernels anew. Named to
numba by ``NUMBA_CACHE_LOCATOR_CLASSES=shoal_core.kernels.baked.BakedCacheLocator``; the folder is ``NUMBA_CACHE_DIR``.
"""

from __future__ import annotations

from pathlib import Path

from numba.core.caching import UserProvidedCacheLocator


class BakedCacheLocator(UserProvidedCacheLocator):
    """Takes the folder of kernels as it is where it is there; else as numba does."""

    def ensure_cache_path(self) -> None:
        """Raises OSError where the folder is not there and can't be made."""
        if not Path(self.get_cache_path()).is_dir():
            super().ensure_cache_path()
