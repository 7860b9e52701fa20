"""The parts of a real node that need no node: archives, device messages, the plugin's talk with a kubelet, cache keys."""

from __future__ import annotations

import json
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from shoal_local import binaries
from shoal_local.node import archive, docker, gpus, images, network, place, preflight
from shoal_local.node.deviceplugin import MESSAGES, PLUGIN, REGISTRATION


def test_messages_have_the_field_numbers_of_the_api() -> None:
    """Bytes as any other speaker of the protocol writes them: key = number << 3 | 2, length, content."""
    request = MESSAGES["RegisterRequest"](version="v1beta1", endpoint="a.sock", resource_name="r/x")
    assert request.SerializeToString() == b"\x0a\x07v1beta1\x12\x06a.sock\x1a\x03r/x"
    answer = MESSAGES["ContainerAllocateResponse"]()
    answer.envs.add(key="K", value="V")
    answer.devices.add(container_path="/c", host_path="/h", permissions="rw")
    assert answer.SerializeToString() == b"\x0a\x06\x0a\x01K\x12\x01V\x1a\x0c\x0a\x02/c\x12\x02/h\x1a\x02rw"
    asked = MESSAGES["AllocateRequest"].FromString(b"\x0a\x08\x0a\x02g1\x0a\x02g2")
    assert list(asked.container_requests[0].devices_ids) == ["g1", "g2"]


class Kubelet:
    """The kubelet's side of the API in a folder; ``refusals`` registrations are turned down first, ``delay`` is waited."""

    def __init__(self, folder: Path, refusals: int = 0, delay: float = 0.0) -> None:
        self.registered: list[Any] = []
        self._refusals, self._delay = refusals, delay
        self._server = grpc.server(ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(
            self._register, request_deserializer=MESSAGES["RegisterRequest"].FromString, response_serializer=gpus.encoded
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(REGISTRATION, {"Register": handler}),))
        self._server.add_insecure_port(f"unix://{folder / 'kubelet.sock'}")
        self._server.start()

    def _register(self, request: Any, context: grpc.ServicerContext) -> Any:
        time.sleep(self._delay)
        if self._refusals:
            self._refusals -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        self.registered.append(request)
        return MESSAGES["Empty"]()

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.registered) < count:
            assert time.monotonic() < deadline, "the plugin does not register"
            time.sleep(0.02)

    def stop(self) -> None:
        self._server.stop(0).wait(5)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("p")


@pytest.fixture
def plugin(folder: Path) -> Iterator[list[str]]:
    ids, ended = gpus.device_ids(3), threading.Event()
    thread = threading.Thread(target=gpus.serve, args=(folder, ids, gpus.RESOURCE, ended))
    thread.start()
    yield ids
    ended.set()
    thread.join(20)
    assert not thread.is_alive()
    assert not (folder / "nvidia.com-gpu.sock").exists()


def call(folder: Path, method: str, request: Any, answer: str) -> Any:
    with grpc.insecure_channel(f"unix://{folder / 'nvidia.com-gpu.sock'}") as channel:
        ask = channel.unary_unary(
            f"/{PLUGIN}/{method}", request_serializer=gpus.encoded, response_deserializer=MESSAGES[answer].FromString
        )
        return ask(request, timeout=10)


def test_devices_are_offered_and_given_by_name(folder: Path, plugin: list[str]) -> None:
    kubelet = Kubelet(folder)
    try:
        kubelet.wait(1)
        assert kubelet.registered[0].resource_name == "nvidia.com/gpu"
        with grpc.insecure_channel(f"unix://{folder / kubelet.registered[0].endpoint}") as channel:
            watch = channel.unary_stream(
                f"/{PLUGIN}/ListAndWatch", request_serializer=gpus.encoded,
                response_deserializer=MESSAGES["ListAndWatchResponse"].FromString,
            )  # fmt: skip
            stream = watch(MESSAGES["Empty"](), timeout=20)
            first = next(iter(stream))
            stream.cancel()
        assert [(d.ID, d.health) for d in first.devices] == [(i, "Healthy") for i in plugin]
        request = MESSAGES["AllocateRequest"]()
        request.container_requests.add(devices_ids=[plugin[2], plugin[0]])
        given = call(folder, "Allocate", request, "AllocateResponse").container_responses[0]
        assert [(e.key, e.value) for e in given.envs] == [("NVIDIA_VISIBLE_DEVICES", f"{plugin[2]},{plugin[0]}")]
        assert [d.container_path for d in given.devices] == ["/dev/nvidia0", "/dev/nvidia2"]
        unknown = MESSAGES["AllocateRequest"]()
        unknown.container_requests.add(devices_ids=["GPU-of-somebody"])
        with pytest.raises(grpc.RpcError, match="no such device: GPU-of-somebody"):
            call(folder, "Allocate", unknown, "AllocateResponse")
    finally:
        kubelet.stop()


def test_a_kubelet_that_is_late_refuses_or_begins_anew_gets_its_devices(folder: Path, plugin: list[str]) -> None:
    kubelet = Kubelet(folder, refusals=2, delay=0.2)
    kubelet.wait(1)
    kubelet.stop()
    for path in folder.iterdir():  # as a kubelet does when it starts
        path.unlink()
    again = Kubelet(folder)
    try:
        again.wait(1)
    finally:
        again.stop()


def test_an_archive_is_the_same_for_the_same_files_and_holds_what_it_says(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    first, second = (archive.layer(tmp_path / n, {"program": program}) for n in ("a.tar", "b.tar"))
    assert first.read_bytes() == second.read_bytes()
    out = archive.write(tmp_path / "image.tar", "shoal.local/x:node", [first], {"Entrypoint": ["/program"]})
    with tarfile.open(out) as tar:
        read = lambda name: tar.extractfile(name).read()  # type: ignore[union-attr]  # noqa: E731
        manifest = json.loads(read("manifest.json"))[0]
        config = json.loads(read(manifest["Config"]))
        assert manifest["RepoTags"] == ["shoal.local/x:node"]
        assert config["config"]["Entrypoint"] == ["/program"]
        assert config["rootfs"]["diff_ids"] == [f"sha256:{manifest['Layers'][0].removesuffix('.tar')}"]
        assert read(manifest["Layers"][0]) == first.read_bytes()


def test_an_image_is_made_once_for_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_CACHE_DIR", str(tmp_path))
    made: list[str] = []

    def make(out: Path) -> None:
        made.append(out.name)
        out.write_text("")

    one = images.kept("x", b"1", make)
    assert images.kept("x", b"1", make) == one
    two = images.kept("x", b"2", make)
    assert made == [one.name, two.name]
    assert not one.exists(), "an older one only takes room"


def test_stages_with_an_entry_point_are_what_is_shipped() -> None:
    text = 'ARG BASE\nFROM ${BASE} AS build\nRUN x\nFROM build AS one\nENTRYPOINT ["a"]\nFROM one AS two\nENTRYPOINT ["b"]\n'
    assert docker.targets(text) == ["one", "two"]


def test_tests_and_local_tools_do_not_change_the_images(tmp_path: Path) -> None:
    for name in ("libs/core/src/a.py", "libs/local/src/b.py", "services/x/tests/c.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("1")
    for name in ("constraints.txt", "VERSION", ".dockerignore", "deploy/docker/Dockerfile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    before = docker.content(tmp_path)
    (tmp_path / "libs/local/src/b.py").write_text("2")
    (tmp_path / "services/x/tests/c.py").write_text("2")
    assert docker.content(tmp_path) == before
    (tmp_path / "libs/core/src/a.py").write_text("2")
    assert docker.content(tmp_path) != before


def test_the_nodes_kit_is_another_build_than_the_control_planes() -> None:
    files = [p for p in binaries.NODE_SOURCES.rglob("*") if p.is_file()]
    assert files
    assert binaries.key("go1.26") != binaries.key("go1.26", binaries.NODE_SOURCES)


def test_rules_of_others_are_not_ours() -> None:
    assert network.ours(f"-A OUTPUT -d {place.API_SERVICE}/32 -m comment --comment {network.MARK} -j DNAT")
    assert network.ours("-A KUBE-SERVICES -j RETURN")
    assert not network.ours("-A FORWARD -i docker0 -j ACCEPT")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "such-a-package" in preflight.packages({"no-such-program": "such-a-package"})
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "only root" in preflight.install(["such-a-package"])
    assert preflight.install([]) == ""
    assert preflight.lacks() == ["root (containers, mounts and a bridge are made)"]
