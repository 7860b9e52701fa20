"""Make-believe GPUs: a device plugin that offers devices which exist in name only.

``python -m shoal_local.node.gpus`` runs it until SIGTERM. A container is told its devices in NVIDIA_VISIBLE_DEVICES, as
NVIDIA's plugin does it, and finds a /dev/nvidia<n> for each that is really /dev/null.
"""

from __future__ import annotations

import argparse
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from shoal_local.node import place
from shoal_local.node.deviceplugin import MESSAGES, PLUGIN, REGISTRATION, VERSION

RESOURCE = "nvidia.com/gpu"
_SPACE = uuid.UUID("6f3c3f0e-5a55-4c9e-9d0b-2f1f6f0c7a10")


def device_ids(count: int) -> list[str]:
    """Identifiers of the form of NVIDIA's, the same at every start."""
    return [f"GPU-{uuid.uuid5(_SPACE, str(number))}" for number in range(count)]


def encoded(message: Any) -> bytes:
    """A message as it is sent."""
    return message.SerializeToString()


class Plugin:
    """Answers the kubelet about its devices."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self._ended = threading.Event()

    def end(self) -> None:
        """End the streams that are open."""
        self._ended.set()

    def options(self, _request: Any, _context: Any) -> Any:
        """GetDevicePluginOptions."""
        return MESSAGES["DevicePluginOptions"]()

    def watch(self, _request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """ListAndWatch: all devices, healthy, until the end."""
        devices = [MESSAGES["Device"](ID=i, health="Healthy") for i in self.ids]
        yield MESSAGES["ListAndWatchResponse"](devices=devices)
        while context.is_active() and not self._ended.wait(0.5):
            pass

    def allocate(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Allocate: what a container is told and given. Unknown devices are refused."""
        answer = MESSAGES["AllocateResponse"]()
        for asked in request.container_requests:
            if unknown := set(asked.devices_ids) - set(self.ids):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no such device: {', '.join(sorted(unknown))}")
            given = answer.container_responses.add()
            given.envs.add(key="NVIDIA_VISIBLE_DEVICES", value=",".join(asked.devices_ids))
            for number in sorted(self.ids.index(i) for i in asked.devices_ids):
                given.devices.add(container_path=f"/dev/nvidia{number}", host_path="/dev/null", permissions="rw")
        return answer

    def handlers(self) -> grpc.GenericRpcHandler:
        """The calls of the API that are served."""

        def unary(call: Any, request: str) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(
                call, request_deserializer=MESSAGES[request].FromString, response_serializer=encoded
            )

        return grpc.method_handlers_generic_handler(PLUGIN, {
            "GetDevicePluginOptions": unary(self.options, "Empty"),
            "Allocate": unary(self.allocate, "AllocateRequest"),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                self.watch, request_deserializer=MESSAGES["Empty"].FromString,
                response_serializer=encoded,
            ),
        })  # fmt: skip


def register(folder: Path, endpoint: str, resource: str, limit: float = 5.0) -> None:
    """Tell the kubelet of the plugin. Raises grpc.RpcError."""
    with grpc.insecure_channel(f"unix://{folder / 'kubelet.sock'}") as channel:
        call = channel.unary_unary(
            f"/{REGISTRATION}/Register",
            request_serializer=encoded, response_deserializer=MESSAGES["Empty"].FromString,
        )  # fmt: skip
        call(MESSAGES["RegisterRequest"](version=VERSION, endpoint=endpoint, resource_name=resource), timeout=limit)


def serve(folder: Path, ids: list[str], resource: str, ended: threading.Event) -> None:
    """Offer the devices until ``ended``; again after each restart of the kubelet, which empties the folder."""
    socket = folder / f"{resource.replace('/', '-')}.sock"
    while not ended.is_set():
        if not (folder / "kubelet.sock").exists():
            ended.wait(0.1)
            continue
        socket.unlink(missing_ok=True)
        plugin, server = Plugin(ids), grpc.server(ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((plugin.handlers(),))
        server.add_insecure_port(f"unix://{socket}")
        server.start()
        try:
            register(folder, socket.name, resource)
            print(f"offers {len(ids)} of {resource}", flush=True)
            while socket.exists() and not ended.wait(0.5):
                pass
        except grpc.RpcError as error:
            print(f"the kubelet does not take it: {error}", flush=True)
            ended.wait(0.5)
        finally:
            plugin.end()
            server.stop(1).wait(3)
    socket.unlink(missing_ok=True)


def main() -> None:
    """Run it."""
    options = argparse.ArgumentParser(prog="shoal_local.node.gpus")
    options.add_argument("--count", type=int, default=8)
    options.add_argument("--resource", default=RESOURCE)
    options.add_argument("--folder", type=Path, default=place.DEVICE_PLUGINS)
    given = options.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    serve(given.folder, device_ids(given.count), given.resource, ended)


if __name__ == "__main__":
    main()
