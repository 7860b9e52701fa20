"""The node itself, before anything is installed on it: containers run, are given devices, and find each other."""

from __future__ import annotations

from typing import Any

import pytest

from shoal_local.node import kubelet, place
from shoal_local.node.gpus import device_ids
from shoal_testkit.api import Api, ApiError

from .conftest import output, pod, until

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]


async def test_the_node_is_ready_and_offers_its_gpus(api: Api) -> None:
    node = await api.get(f"/api/v1/nodes/{place.NAME}")
    ready = next(c for c in node["status"]["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "True"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == str(kubelet.GPUS)
    assert not node["spec"].get("taints")
    assert node["metadata"]["labels"]["nvidia.com/gpu.memory"] == str(kubelet.GPU_MEMORY)


async def test_a_container_is_given_devices_that_nobody_else_has(api: Api, space: str) -> None:
    script = "import os, glob; print(os.environ['NVIDIA_VISIBLE_DEVICES'], len(glob.glob('/dev/nvidia*')))"
    hold = script + "; import time; time.sleep(600)"
    await api.post(f"/api/v1/namespaces/{space}/pods", pod("six", hold, resources={"limits": {"nvidia.com/gpu": "6"}}))
    await until(api, space, "six", "Running")
    await api.post(f"/api/v1/namespaces/{space}/pods", pod("two", script, resources={"limits": {"nvidia.com/gpu": "2"}}))
    mine, files = (await output(api, space, "two")).split()
    assert files == "2"
    theirs = ""
    while not theirs:
        theirs = await api.get(f"/api/v1/namespaces/{space}/pods/six/log")
    together = [*mine.split(","), *theirs.split()[0].split(",")]
    assert sorted(together) == sorted(device_ids(kubelet.GPUS))


async def test_names_resolve_and_a_service_reaches_its_pod(api: Api, space: str) -> None:
    server = pod("web", "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000, bind='0.0.0.0')")
    server["spec"]["containers"][0]["workingDir"] = "/etc/ssl"
    await api.post(f"/api/v1/namespaces/{space}/pods", server)
    ports = [{"port": 80, "targetPort": 8000}]
    await api.post(
        f"/api/v1/namespaces/{space}/services",
        {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}},
    )
    await until(api, space, "web", "Running")
    script = (
        "import time, urllib.request as u\n"
        "for left in range(200, -1, -1):\n"
        f"    try: print(u.urlopen('http://web.{space}.svc.cluster.local/', timeout=2).status); break\n"
        "    except OSError:\n"
        "        if not left: raise\n"
        "        time.sleep(0.1)\n"
    )
    await api.post(f"/api/v1/namespaces/{space}/pods", pod("client", script))
    assert (await output(api, space, "client")).strip() == "200"


async def test_a_pod_reaches_the_api_with_its_account_and_no_more_than_its_rights(api: Api, space: str) -> None:
    script = (
        "import json, ssl, urllib.error, urllib.request as u\n"
        "a = '/var/run/secrets/kubernetes.io/serviceaccount/'\n"
        "tls = ssl.create_default_context(cafile=a + 'ca.crt')\n"
        "key = {'Authorization': 'Bearer ' + open(a + 'token').read()}\n"
        "r = u.Request('https://kubernetes.default.svc/api/v1/nodes', headers=key)\n"
        "try: u.urlopen(r, context=tls, timeout=5)\n"
        "except urllib.error.HTTPError as e: print(e.code, json.load(e)['message'].split('\"')[1])\n"
    )
    await api.post(f"/api/v1/namespaces/{space}/pods", pod("asks", script))
    assert (await output(api, space, "asks")).split() == ["403", f"system:serviceaccount:{space}:default"]


async def test_the_kubelet_may_not_change_another_node(real_node: Any, api: Api) -> None:
    await api.post("/api/v1/nodes", {"metadata": {"name": "other"}})
    try:
        async with Api.connect(real_node.plane.folder / "kubelet.kubeconfig") as kubelet_api:
            with pytest.raises(ApiError) as refused:
                await kubelet_api.patch("/api/v1/nodes/other", {"metadata": {"labels": {"a": "b"}}})
        assert refused.value.status == 403
    finally:
        await api.delete("/api/v1/nodes/other")
