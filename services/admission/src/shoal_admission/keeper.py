"""Keeps admission's certificates: in a Secret that all replicas share, in the webhook configurations, in the TLS server."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from shoal_admission import certificates, metrics, webhooks
from shoal_admission.certificates import Lifetimes, Material
from shoal_kube import AlreadyExists, Conflict, Kube, NotFound
from shoal_kube.resources import SECRETS, Resource

_CONFIGURATIONS = {
    plural: Resource(kind, "/apis/admissionregistration.k8s.io/v1", plural, namespaced=False)
    for kind, plural in (
        ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
        ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
    )
}
MOST_TRIES = 20


def load_chain(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Serve this pair from the next handshake on. Raises ssl.SSLError when the two don't fit; the old pair stays then.

    The key passes through memory alone: no writable folder is needed, and nothing of it reaches a disk.
    """
    # A context whose certificate was loaded and whose key was not would serve a broken pair: try it on another first.
    for target in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
        file = os.memfd_create("pair", os.MFD_CLOEXEC)
        try:
            os.write(file, certificate + b"\n" + key)
            target.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)


class SecretKeeper:
    """One replica's hand on the Secret and the webhook configurations. ``step`` is one look at all of it."""

    def __init__(
        self, kube: Kube, context: ssl.SSLContext, now: Callable[[], float], namespace: str, secret: str,
        hosts: tuple[str, ...], lives: Lifetimes,
    ) -> None:  # fmt: skip
        self._kube, self._context, self._now = kube, context, now
        self._namespace, self._secret, self._hosts, self._lives = namespace, secret, hosts, lives
        self._loaded: tuple[bytes, bytes] | None = None
        self._published = b""
        """The bundle that stands in every configuration."""

    async def step(self) -> int:
        """Bring Secret, configurations and server to where they should be; gives the number of configurations found.

        Raises KubeError, ssl.SSLError.
        """
        material = await self._agree()
        # First the trust, then what needs it.
        count = await self._publish(material.bundle)
        if self._loaded != (material.certificate, material.key):
            load_chain(self._context, material.certificate, material.key)
            self._loaded = (material.certificate, material.key)
            metrics.ROTATED.inc()
        metrics.EXPIRES.labels("serving").set(certificates.ends(material.certificate))
        metrics.EXPIRES.labels("authority").set(certificates.ends(material.signer))
        return count

    async def _agree(self) -> Material:
        """The Secret's material after what was due, by this replica or another that was faster."""
        for _ in range(MOST_TRIES):
            version, found = await self._read()
            wanted = certificates.renew(
                found, self._hosts, self._now(), self._lives,
                published=found is not None and found.bundle == self._published, trusted=self._published,
            )  # fmt: skip
            if wanted is found:
                return wanted
            try:
                await self._write(version, wanted)
            except (Conflict, NotFound):
                continue  # another replica was faster, or it was deleted: look again
            return wanted
        raise Conflict(409, "Conflict", f"the Secret {self._secret} changed {MOST_TRIES} times while it was written")

    async def _read(self) -> tuple[str | None, Material | None]:
        """(resourceVersion, None where there is no Secret; its material, None where it has none)."""
        try:
            found: dict[str, Any] = msgspec.json.decode(await self._kube.get(SECRETS.path(self._secret, self._namespace)))
        except NotFound:
            return None, None
        try:
            data = {k: base64.b64decode(v) for k, v in (found.get("data") or {}).items()}
        except ValueError:
            data = {}
        return found["metadata"]["resourceVersion"], certificates.from_data(data)

    async def _write(self, version: str | None, material: Material) -> None:
        body: dict[str, Any] = {
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": self._secret, "namespace": self._namespace, "labels": {"app": "admission"}},
            "data": {k: base64.b64encode(v).decode() for k, v in certificates.to_data(material).items()},
        }  # fmt: skip
        if version is None:
            try:
                await self._kube.post(SECRETS.path("", self._namespace), body)
            except AlreadyExists as error:
                raise Conflict(409, "Conflict", error.message) from error
        else:
            body["metadata"]["resourceVersion"] = version
            await self._kube.put(SECRETS.path(self._secret, self._namespace), body)

    async def _publish(self, bundle: bytes) -> int:
        """Put the bundle into every configuration that lacks it; gives how many there are."""
        wanted, count = base64.b64encode(bundle).decode(), 0
        for plural, name in webhooks.NAMES:
            path = _CONFIGURATIONS[plural].path(name)
            for _ in range(MOST_TRIES):
                try:
                    found: dict[str, Any] = msgspec.json.decode(await self._kube.get(path))
                except NotFound:
                    break
                hooks = found.get("webhooks") or []
                if any(hook["clientConfig"].get("caBundle") != wanted for hook in hooks):
                    for hook in hooks:
                        hook["clientConfig"]["caBundle"] = wanted
                    version = found["metadata"]["resourceVersion"]
                    try:
                        await self._kube.merge_patch(path, {"metadata": {"resourceVersion": version}, "webhooks": hooks})
                    except (Conflict, NotFound):
                        continue
                count += 1
                break
            else:
                raise Conflict(409, "Conflict", f"{name} changed {MOST_TRIES} times while it was written")
        self._published = bundle
        return count


class FolderKeeper:
    """Certificates that somebody else makes (cert-manager): ``tls.crt`` and ``tls.key`` of a mounted folder."""

    def __init__(self, folder: Path, context: ssl.SSLContext) -> None:
        self._folder, self._context = folder, context
        self._loaded: tuple[bytes, bytes] | None = None

    async def step(self) -> int:
        """Load the files if they changed. Raises OSError, ssl.SSLError, ValueError: the pair before stays."""

        def read() -> tuple[bytes, bytes]:
            return (self._folder / "tls.crt").read_bytes(), (self._folder / "tls.key").read_bytes()

        pair = await asyncio.to_thread(read)
        if pair != self._loaded:
            expires = certificates.ends(pair[0])
            load_chain(self._context, *pair)
            self._loaded = pair
            metrics.ROTATED.inc()
            metrics.EXPIRES.labels("serving").set(expires)
        return 0
