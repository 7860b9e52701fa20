"""admission: reviews pods, PodGroups, Queues and Topologies for the API server, and keeps its own certificates."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from shoal_admission import definitions, pods, webhooks
from shoal_admission.certificates import Lifetimes
from shoal_admission.keeper import FolderKeeper, SecretKeeper
from shoal_admission.pods import Rules
from shoal_admission.server import Review, serving, tls_context
from shoal_contracts.state import QueueRecord
from shoal_kube import Kube, KubeConfig
from shoal_kube.admission import Request, Verdict
from shoal_model.access import ADMISSION_SECRET
from shoal_service import Common, Context, run
from shoal_service.metrics import UNEXPECTED
from shoal_service.mirror import mirror

NAME = "admission"
DAY = 86_400.0


class Config(Common, kw_only=True, forbid_unknown_fields=True):
    """Settings of admission."""

    host: str = "127.0.0.1"
    """Address that the reviews come to."""
    port: int = 9443
    """0: any free one."""
    port_file: str = ""
    """Where to write the port that was taken."""
    shared_port: bool = False
    """Whether several replicas on one machine listen on the same port."""
    review_seconds: float = 3.0
    """Time limit of a review; below the hooks' timeoutSeconds."""
    client_ca: str = ""
    """File of the authority whose certificate the API server must show; empty: it need not show one."""

    gpu_sharing: bool = True
    """Whether pods may ask for shares of GPUs; else they are refused."""
    hami_core: bool = False
    block_nvidia_visible_devices: bool = False
    """Needs hooks for every pod of the scheduler: `shoal_admission.webhooks --every-pod`."""
    gpu_fraction_runtime_class_name: str = "nvidia"
    compare_quotas: bool = False
    """Warn where the quotas of queues promise more than the queue above them has."""

    service: str = "admission"
    """Name of the Service; the certificate is for <service>.<namespace>.svc."""
    hosts: str = ""
    """Further names and addresses for the certificate, with commas."""
    secret: str = ADMISSION_SECRET
    certificate_folder: str = ""
    """Folder of tls.crt and tls.key that somebody else renews (cert-manager); empty: our own, in the Secret."""
    certificate_every: float = 30.0
    """Seconds between two looks at the certificates."""
    authority_days: float = 5 * 365.0
    certificate_days: float = 90.0
    overlap_seconds: float = 3600.0
    """Between two steps of renewing the authority: several times ``certificate_every``."""


class Queues:
    """The queues of the cluster, for warnings. None until they are all known."""

    def __init__(self) -> None:
        self.known: dict[str, QueueRecord] | None = None

    async def follow(self, context: Context[Config]) -> None:
        """Keep the picture."""
        found: dict[str, QueueRecord] = {}
        async for news in mirror(context, ("queue",)):
            if isinstance(news.record, QueueRecord):
                found[news.record.name] = news.record
            elif news.record is None and news.kind == "queue":
                found.pop(news.names[0], None)
            if news.current:
                self.known = found


def reviews(config: Config, queues: Queues) -> dict[str, Review]:
    """Path -> review."""
    rules = Rules(
        scheduler_name=config.scheduler_name, gpu_sharing=config.gpu_sharing, hami_core=config.hami_core,
        block_visible_devices=config.block_nvidia_visible_devices, runtime_class=config.gpu_fraction_runtime_class_name,
    )  # fmt: skip

    def queue(request: Request) -> Verdict:
        return definitions.validate_queue(request, queues.known, compare_quotas=config.compare_quotas)

    return {
        webhooks.MUTATE_POD: partial(pods.mutate, rules=rules),
        webhooks.VALIDATE_POD: partial(pods.validate, rules=rules),
        webhooks.VALIDATE_GROUP: definitions.validate_group,
        webhooks.VALIDATE_QUEUE: queue,
        webhooks.VALIDATE_TOPOLOGY: definitions.validate_topology,
    }


def hosts(config: Config) -> tuple[str, ...]:
    """Names and addresses that the certificate is for, the Service's first."""
    name = f"{config.service}.{config.namespace}"
    more = [h.strip() for h in config.hosts.split(",") if h.strip()]
    return (f"{name}.svc", f"{name}.svc.cluster.local", *more)


def lives(config: Config) -> Lifetimes:
    """How long certificates live."""
    return Lifetimes(config.authority_days * DAY, config.certificate_days * DAY, config.overlap_seconds)


async def _look(context: Context[Config], keeper: SecretKeeper | FolderKeeper) -> None:
    """Keep the certificates, for ever; what fails is counted and tried again at the next look."""
    count = -1
    while True:
        await asyncio.sleep(context.config.certificate_every)
        try:
            found = await keeper.step()
        except Exception as error:
            UNEXPECTED.labels("certificates").inc()
            context.log.error("certificates: again at the next look", error=repr(error))
            continue
        if isinstance(keeper, SecretKeeper) and found != count:
            count = found
            if found < len(webhooks.NAMES):
                context.log.warning("webhook configurations are missing", found=found, wanted=len(webhooks.NAMES))


async def start(context: Context[Config]) -> None:
    """Serve reviews until cancelled."""
    config = context.config
    tls, queues = tls_context(config.client_ca), Queues()
    context.wait_for("certificate")
    async with AsyncExitStack() as open_:
        keeper: SecretKeeper | FolderKeeper
        if config.certificate_folder:
            keeper = FolderKeeper(Path(config.certificate_folder), tls)
        else:
            access = KubeConfig(context.kubeconfig, f"shoal-{NAME}", config.qps, config.burst)
            kube = await open_.enter_async_context(Kube.connect(access))
            keeper = SecretKeeper(kube, tls, context.clock.now, config.namespace, config.secret, hosts(config), lives(config))
        await context.retry("certificates", keeper.step)
        server = serving(
            reviews(config, queues), tls, context.log, host=config.host, port=config.port, port_file=config.port_file,
            shared=config.shared_port, limit=config.review_seconds,
        )  # fmt: skip
        port = await open_.enter_async_context(server)
        context.have("certificate")
        context.log.info("reviewing", port=port)
        context.start(queues.follow(context), "queues")
        await _look(context, keeper)


def main() -> None:
    """Run the service."""
    run(NAME, Config, start)
