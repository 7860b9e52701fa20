"""The independent watch of a benchmark: a process of its own, so that the load does not hold it up.

``watcher.py KUBECONFIG PATH VERSION COUNT`` prints "watching", and when ``COUNT`` pods were seen with a node, a JSON object
of UID -> monotonic time.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import msgspec

from shoal_testkit.api import Api


class _Meta(msgspec.Struct, rename="camel"):
    uid: str = ""
    resource_version: str = ""


class _Spec(msgspec.Struct, rename="camel"):
    node_name: str = ""


class _Pod(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


class _Event(msgspec.Struct):
    type: str
    object: _Pod


_EVENT = msgspec.json.Decoder(_Event)


async def watch(kubeconfig: str, path: str, version: str, count: int) -> None:
    """Until all are bound. The server may end a watch: it goes on behind the last event."""
    bound: dict[str, float] = {}
    async with Api.connect(kubeconfig, agent="shoal-bench-watcher") as api:
        print("watching", flush=True)
        while len(bound) < count:
            async for line in api.lines(path, version):
                found = _EVENT.decode(line).object
                version = found.metadata.resource_version
                if found.spec.node_name and found.metadata.uid not in bound:
                    bound[found.metadata.uid] = time.monotonic()
                    if len(bound) == count:
                        break
    print(json.dumps(bound), flush=True)


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
