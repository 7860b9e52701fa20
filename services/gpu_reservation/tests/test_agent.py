"""The reservation program finds the one device that it was given, or says why not. NVML answers late, wrong and never."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from shoal_gpu_reservation.agent import LOST, SILENT, CantTell, device, hold


class FakeNvml:
    """NVML with so many devices; ``errors`` so many calls fail, then it works."""

    class NVMLError(Exception):
        pass

    def __init__(self, count: int = 1, errors: int = 0) -> None:
        self.count, self.errors = count, errors

    def _answer(self, value: Any) -> Any:
        if self.errors:
            self.errors -= 1
            raise self.NVMLError("GPU is lost")
        return value

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return self._answer(self.count)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self._answer(index)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        return self._answer(uuid)

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return self._answer(f"GPU-{handle}")

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        return self._answer(40)


class FakeApi:
    """The pod: notes what is annotated; the first ``failures`` calls fail."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.said = failures, dict[str, str]()
        self.told = threading.Event()

    def annotate(self, uid: str, key: str, value: str) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("no route")
        self.said[key] = value
        self.told.set()


def test_nvml_tells_the_one_device() -> None:
    assert device(FakeNvml(), {"NVIDIA_VISIBLE_DEVICES": "other"}) == "GPU-0"


@pytest.mark.parametrize(("nvml", "word"), [(FakeNvml(0), "0 devices"), (FakeNvml(8), "8 devices"), (FakeNvml(1, 1), "lost")])
def test_nvml_that_shows_another_number_or_none_is_an_error(nvml: FakeNvml, word: str) -> None:
    with pytest.raises(CantTell, match=word):
        device(nvml, {})


@pytest.mark.parametrize("named", ["GPU-1", "k8s.device-plugin.nvidia.com/gpu=GPU-1"])
def test_without_nvml_the_device_plugins_variable_tells(named: str) -> None:
    assert device(None, {"NVIDIA_VISIBLE_DEVICES": named}) == "GPU-1"


@pytest.mark.parametrize("named", ["", "all", "none", "void", "GPU-1,GPU-2"])
def test_a_variable_that_names_no_single_device_is_an_error(named: str) -> None:
    with pytest.raises(CantTell, match="NVIDIA_VISIBLE_DEVICES"):
        device(None, {"NVIDIA_VISIBLE_DEVICES": named})


def held(nvml: FakeNvml, api: FakeApi, wait: float) -> None:
    ended = threading.Event()
    thread = threading.Thread(target=hold, args=(api, "u", "GPU-0", nvml, ended, 0.001))
    thread.start()
    api.told.wait(wait)
    ended.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_device_that_goes_away_is_told_even_if_the_api_is_away_at_first() -> None:
    api = FakeApi(failures=2)
    held(FakeNvml(errors=1000), api, 5)
    assert "GPU is lost" in api.said[LOST]


def test_a_device_that_is_silent_for_a_moment_is_not_gone() -> None:
    api, nvml = FakeApi(), FakeNvml(errors=SILENT - 1)
    held(nvml, api, 0.1)
    assert api.said == {}
    assert nvml.errors == 0
