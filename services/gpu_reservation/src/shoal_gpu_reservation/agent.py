"""The reservation program: says on its own pod which GPU it was given, and holds it until it is told to end.

It runs in every reservation pod, so it is small: the standard library, and NVML where the node has it. The device is the
only one that NVML shows, or the one that the device plugin names in ``NVIDIA_VISIBLE_DEVICES``. Exits with 0 when it is
told to end, and with 1 and a word where it can't find one device: the kubelet starts it again.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

DEVICE = "run.ai/reserve_for_gpu_index"
LOST = "shoal.dev/gpu-lost"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
VISIBLE = "NVIDIA_VISIBLE_DEVICES"
TIMEOUT = 10.0
LOOK = 15.0
"""Seconds between two looks whether the device still answers."""
SILENT = 3
"""So many looks in a row without an answer mean that it is gone."""


class CantTell(Exception):
    """The device is not known; the message says why."""


class Nvml(Protocol):
    """What is used of NVML (module ``pynvml``)."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: D102
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: D102
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: D102
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any: ...  # noqa: D102
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...  # noqa: D102
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...  # noqa: D102


def load() -> Nvml | None:
    """NVML, if the library and a driver are here."""
    try:
        import pynvml  # type: ignore[import-not-found]

        pynvml.nvmlInit()
    except Exception as error:  # whatever a driver says: then the environment has to tell
        print(f"no NVML here: {error}", file=sys.stderr)
        return None
    return cast(Nvml, pynvml)


def device(nvml: Nvml | None, environment: Mapping[str, str]) -> str:
    """The UUID of the one device that the container has. Raises CantTell."""
    if nvml is not None:
        try:
            count = nvml.nvmlDeviceGetCount()
            if count != 1:
                raise CantTell(f"NVML shows {count} devices where one was reserved")
            return nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(0))
        except nvml.NVMLError as error:
            raise CantTell(f"NVML does not tell: {error}") from error
    named = [d.rpartition("=")[2] for d in environment.get(VISIBLE, "").split(",") if d]
    if len(named) != 1 or named[0] in ("all", "none", "void"):
        raise CantTell(f"{VISIBLE} is {environment.get(VISIBLE, '')!r} where it should name one device")
    return named[0]


class Api:
    """The pod itself on the API server, as its service account."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._account = Path(environment.get("SHOAL_SERVICE_ACCOUNT", ACCOUNT))
        host, port = environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]
        if ":" in host:
            host = f"[{host}]"
        namespace, name = environment["POD_NAMESPACE"], environment["POD_NAME"]
        self._url = f"https://{host}:{port}/api/v1/namespaces/{namespace}/pods/{name}"
        self._tls = ssl.create_default_context(cafile=str(self._account / "ca.crt"))

    def call(self, verb: str, body: Any = None) -> dict[str, Any]:
        """GET or PATCH (a merge patch) of the pod. Raises OSError."""
        headers = {"Authorization": f"Bearer {(self._account / 'token').read_text().strip()}"}
        data = None
        if body is not None:
            headers["Content-Type"], data = "application/merge-patch+json", json.dumps(body).encode()
        request = urllib.request.Request(self._url, data=data, headers=headers, method=verb)
        with urllib.request.urlopen(request, timeout=TIMEOUT, context=self._tls) as answer:
            return json.loads(answer.read())

    def annotate(self, uid: str, key: str, value: str) -> None:
        """Set an annotation on this very pod. Raises OSError."""
        self.call("PATCH", {"metadata": {"uid": uid, "annotations": {key: value}}})


def answers(nvml: Nvml, uuid: str) -> str:
    """Why the device does not answer; empty if it does."""
    try:
        nvml.nvmlDeviceGetTemperature(nvml.nvmlDeviceGetHandleByUUID(uuid), 0)
    except nvml.NVMLError as error:
        return str(error)
    return ""


def hold(api: Api, uid: str, uuid: str, nvml: Nvml | None, ended: threading.Event, look: float = LOOK) -> None:
    """Stay until ``ended``; if the device goes away, say so once."""
    silent, told = 0, False
    while not ended.wait(look):
        if nvml is None or told:
            continue
        why = answers(nvml, uuid)
        silent = silent + 1 if why else 0
        if silent >= SILENT:
            try:
                api.annotate(uid, LOST, f"the device does not answer: {why}"[:500])
                told = True
            except OSError as error:
                print(f"loss of {uuid} not told yet: {error}", file=sys.stderr)


def main() -> int:
    """Find, tell, hold."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        api = Api(os.environ)
        nvml = load()
        metadata = api.call("GET")["metadata"]
        uuid = metadata.get("annotations", {}).get(DEVICE, "")
        if not uuid:
            uuid = device(nvml, os.environ)
            api.annotate(metadata["uid"], DEVICE, uuid)
    except (CantTell, OSError, KeyError, ValueError) as error:
        print(f"reservation: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    print(f"holding {uuid}", flush=True)
    hold(api, metadata["uid"], uuid, nvml, ended)
    return 0


if __name__ == "__main__":
    sys.exit(main())
