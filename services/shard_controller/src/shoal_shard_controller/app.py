"""The shard-controller: a scheduler for each SchedulingShard."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from shoal_kube import Bad, Deleted, Denied, Kube, KubeConfig, KubeError, NotFound, Put, Reflector, Synced
from shoal_kube.resources import CONFIG_MAPS, CONFIGS, DEPLOYMENTS, SHARDS, Resource
from shoal_model import labels, shards
from shoal_model import objects as api
from shoal_model.shards import BadShard
from shoal_service import Common, Context, run
from shoal_service.leader import leading, writer
from shoal_shard_controller import kai_config, metrics, objects, partitions, status
from shoal_shard_controller.objects import DEFAULT, Object

NAME = "shard-controller"
LEASE = "shoal-shard-controller"
APPLY = "application/apply-patch+yaml"
MANAGER = f"?fieldManager={LEASE}&force=true"
PAUSE = 0.2
"""Seconds in which changes gather before they are looked at."""
AGAIN = 10.0
"""Seconds after which what failed is tried again."""


class Config(Common, kw_only=True, forbid_unknown_fields=True):
    """Settings of the shard-controller."""

    lease_seconds: float = 6.0
    """No pod waits for it."""
    node_pool_label_key: str = labels.NODE_POOL
    """Label that puts nodes, queues and pod groups into a node pool."""
    queue_label_key: str = labels.QUEUE
    """Only told to who writes another one into the Config object."""


class _Thing(api.Obj):
    metadata: api.Meta


class Service:
    """Follows shards, the Config object and Deployments of its namespace, and brings what is wanted about."""

    def __init__(self, context: Context[Config], kube: Kube) -> None:
        self._context, self._kube, self._news = context, kube, asyncio.Event()
        self._namespace, self._scheduler = context.config.namespace, context.config.scheduler_name
        self._known: dict[str, dict[str, Object]] = {"shards": {}, "configs": {}, "deployments": {}}
        self._synced: set[str] = set()
        self._applied: dict[str, tuple[list[Object], int | None]] = {}
        """Shard -> its objects as they were applied, and the generation that its Deployment had then."""

    @property
    def _template(self) -> str:
        return f"{self._scheduler}-{DEFAULT}"

    async def follow(self, kind: str, resource: Resource) -> None:
        """Keep the objects of a kind at hand, for ever."""
        known = self._known[kind]
        async for told in Reflector(self._kube, resource, _Thing).run():
            match told:
                case Put():
                    known[told.key[1]] = msgspec.json.decode(told.raw)
                case Deleted():
                    known.pop(told.key[1], None)
                case Bad():
                    if told.key is not None:
                        known.pop(told.key[1], None)
                    self._context.log.warning("object left out", kind=kind, key=told.key, error=told.error)
                case Denied():
                    self._context.log.warning("a kind can't be read", kind=kind, error=told.error)
                case Synced():
                    self._synced.add(kind)
            self._news.set()

    async def reconcile(self) -> None:
        """At each change, and again while something fails, for ever."""
        while True:
            await self._news.wait()
            await asyncio.sleep(PAUSE)
            self._news.clear()
            if self._synced != self._known.keys():
                continue
            self._context.have("shards")
            if not await self._all():
                asyncio.get_running_loop().call_later(AGAIN, self._news.set)

    async def _all(self) -> bool:
        """One look at everything; whether all of it went well."""
        wishes, fine = await self._config()
        alive = {n: s for n, s in self._known["shards"].items() if not s["metadata"].get("deletionTimestamp")}
        found: dict[str, shards.Options | str] = {}
        for name, shard in alive.items():
            try:
                objects.check_name(name, self._scheduler)
                found[name] = shards.read(shard.get("spec") or {})
            except (BadShard, TypeError, ValueError, AttributeError) as error:
                found[name] = str(error)
        wanted = {
            n: (o.partition, alive[n]["metadata"].get("creationTimestamp") or "")
            for n, o in found.items() if isinstance(o, shards.Options)
        }  # fmt: skip
        serving = partitions.served(self._known["deployments"])
        found |= partitions.refused(wanted, serving)
        ready = 0
        for name, options in sorted(found.items()):
            problem = unavailable = ""
            ignored: list[str] = []
            if isinstance(options, str):
                problem = options
            else:
                ignored = options.ignored
                try:
                    await self._bring(alive[name], options, wishes)
                    unavailable = self._unavailable(name)
                except (BadShard, KubeError) as error:
                    problem = str(error)
                    fine = fine and isinstance(error, BadShard)
            ready += not (problem or unavailable)
            fine = await self._tell(SHARDS, alive[name], problem, unavailable, ignored) and fine
        if DEFAULT not in alive:
            fine = await self._default_is_charts() and fine
        metrics.SHARDS.labels("true").set(ready)
        metrics.SHARDS.labels("false").set(len(found) - ready)
        return fine

    async def _config(self) -> tuple[objects.Wishes, bool]:
        """What the Config object asks for; it is told what of it has no effect."""
        found = self._known["configs"].get(kai_config.NAME)
        if found is None:
            return objects.Wishes(), True
        config = self._context.config
        installed = {
            "namespace": self._namespace, "global.schedulerName": self._scheduler,
            "global.queueLabelKey": config.queue_label_key, "global.nodePoolLabelKey": config.node_pool_label_key,
        }  # fmt: skip
        wishes, problem, ignored = objects.Wishes(), "", []
        try:
            wishes, ignored = kai_config.read(found.get("spec") or {}, installed)
        except (TypeError, ValueError) as error:
            problem = str(error)
        return wishes, await self._tell(CONFIGS, found, problem, "", ignored)

    async def _bring(self, shard: Object, options: shards.Options, wishes: objects.Wishes) -> None:
        """Apply the shard's objects. Raises BadShard, KubeError."""
        name, known = shard["metadata"]["name"], self._known["deployments"]
        text = objects.overlay(name, options, self._context.config.node_pool_label_key)
        template = known.get(self._template)
        if template is None:
            raise BadShard(
                f"Deployment {self._template}, after which shards are made, does not exist: install the chart with it"
            )
        settings = objects.config_map(shard, self._namespace, text)
        if name == DEFAULT:
            await self._apply(CONFIG_MAPS, settings)
            await self._mark_default(options.partition, objects.checksum(text))
            return
        wanted = [settings, objects.deployment(shard, template, options.partition, text, wishes)]
        stands = known.get(f"{self._scheduler}-{name}")
        if stands is None or self._applied.get(name) != (wanted, stands["metadata"].get("generation")):
            await self._apply(CONFIG_MAPS, wanted[0])
            made = msgspec.json.decode(await self._apply(DEPLOYMENTS, wanted[1]))
            self._applied[name] = (wanted, made["metadata"].get("generation"))

    async def _default_is_charts(self) -> bool:
        """Without a shard of that name the default scheduler has the chart's configuration alone."""
        template = self._known["deployments"].get(self._template)
        if template is None or objects.CHECKSUM not in (template["spec"]["template"]["metadata"].get("annotations") or {}):
            return True
        try:
            await self._mark_default(None, None)
        except KubeError as error:
            self._context.log.info("default scheduler not restarted, again later", error=str(error))
            return False
        return True

    async def _mark_default(self, partition: str | None, checksum: str | None) -> None:
        """Mark the chart's scheduler, which restarts it where ``checksum`` is another; nothing of it is ours but the marks."""
        label = None if partition is None else DEFAULT
        marks = {"metadata": {"annotations": {objects.CHECKSUM: checksum}}}
        body = {
            "metadata": {"annotations": {objects.PARTITION: partition}, "labels": {objects.SHARD: label}},
            "spec": {"template": marks},
        }  # fmt: skip
        if self._differs(self._known["deployments"].get(self._template), body):
            await self._kube.merge_patch(DEPLOYMENTS.path(self._template, self._namespace), body)

    @staticmethod
    def _differs(have: Any, patch: Mapping[str, Any]) -> bool:
        """Whether a merge patch would change something."""
        return any(
            Service._differs((have or {}).get(k) or {}, v) if isinstance(v, Mapping) else (have or {}).get(k) != v
            for k, v in patch.items()
        )

    async def _apply(self, resource: Resource, body: Object) -> bytes:
        where = resource.path(body["metadata"]["name"], self._namespace) + MANAGER
        return await self._kube.call("PATCH", where, body, content=APPLY)

    def _unavailable(self, name: str) -> str:
        """What keeps the shard's scheduler from being ready."""
        app = f"{self._scheduler}-{name}"
        found = self._known["deployments"].get(app)
        if found is None:
            return f"Deployment {app}: not seen yet"
        spec, have = found["spec"], found.get("status") or {}
        wanted = spec.get("replicas", 1)
        current = have.get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
        if current and have.get("updatedReplicas", 0) >= wanted and have.get("availableReplicas", 0) >= max(1, wanted):
            return ""
        return f"Deployment {app}: not available ({have.get('availableReplicas', 0)} of {wanted}); see its pods' logs"

    async def _tell(self, resource: Resource, about: Object, problem: str, unavailable: str, ignored: list[str]) -> bool:
        """Write the conditions where they changed; whether that went well."""
        metadata, before = about["metadata"], (about.get("status") or {}).get("conditions") or []
        now = status.conditions(metadata.get("generation", 0), problem, unavailable, ignored)
        if (found := status.merged(before, now, self._context.clock.now())) is None:
            return True
        try:
            where = resource.path(metadata["name"], sub="status")
            await self._kube.merge_patch(where, {"status": {"conditions": found}})
        except NotFound:
            return True
        except KubeError as error:
            self._context.log.info("status not written, again later", name=metadata["name"], error=str(error))
            return False
        return True


async def start(context: Context[Config]) -> None:
    """Lead, then follow and bring about."""
    context.wait_for("shards")
    config = context.config
    settings = KubeConfig(context.kubeconfig, LEASE, config.qps, config.burst)
    own = Resource("Deployment", f"/apis/apps/v1/namespaces/{config.namespace}", "deployments", namespaced=False)
    async with Kube.connect(settings) as unguarded, leading(context, unguarded, LEASE) as election:
        kube = writer(unguarded, election)
        service = Service(context, kube)
        async with asyncio.TaskGroup() as tasks:
            for kind, resource in (("shards", SHARDS), ("configs", CONFIGS), ("deployments", own)):
                tasks.create_task(service.follow(kind, resource))
            tasks.create_task(service.reconcile())


def main() -> None:
    """Run the service."""
    run(NAME, Config, start)
