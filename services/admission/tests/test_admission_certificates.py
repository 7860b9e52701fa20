"""Certificates: renewed in time, and at each moment what is served is trusted by whoever saw the step before."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_admission.certificates import BACKDATED, Lifetimes, Material, ends, from_data, renew, to_data
from shoal_admission.keeper import FolderKeeper, load_chain

HOSTS = ("admission.kai-scheduler.svc", "127.0.0.1")
LIVES = Lifetimes(authority=1000.0, serving=300.0, overlap=10.0)
NOW = 1_700_000_000.0


def trusts(bundle: bytes, certificate: bytes, at: float) -> bool:
    """Whether a client with that bundle takes the certificate, by x509's own verification."""
    store = x509.verification.Store(x509.load_pem_x509_certificates(bundle))
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    verifier = x509.verification.PolicyBuilder().store(store).time(moment).build_server_verifier(x509.DNSName(HOSTS[0]))
    try:
        verifier.verify(x509.load_pem_x509_certificate(certificate), [])
    except x509.verification.VerificationError:
        return False
    return True


def test_the_first_is_complete_and_survives_the_secret() -> None:
    found = renew(None, HOSTS, NOW, LIVES, published=False)
    assert from_data(to_data(found)) == found
    assert trusts(found.bundle, found.certificate, NOW)
    assert ends(found.certificate) == NOW + LIVES.serving
    assert renew(found, HOSTS, NOW + 1, LIVES, published=True) is found, "nothing is due"


@pytest.mark.parametrize("key", ["tls.crt", "signer.key", "ca.crt", "changed", "next.crt"])
def test_a_secret_that_holds_no_such_thing_is_begun_anew(key: str) -> None:
    data = to_data(renew(None, HOSTS, NOW, LIVES, published=False))
    assert from_data({**data, key: b"nonsense"}) is None
    assert from_data({k: v for k, v in data.items() if k != key}) is None
    assert from_data({}) is None


def test_another_host_means_another_certificate_of_the_same_authority() -> None:
    found = renew(None, HOSTS, NOW, LIVES, published=True)
    more = renew(found, (*HOSTS, "localhost"), NOW + 1, LIVES, published=True)
    assert more.certificate != found.certificate
    assert more.bundle == found.bundle
    assert renew(more, HOSTS, NOW + 2, LIVES, published=True) is more, "one that has more names serves as well"


def test_the_next_authority_is_not_used_before_it_is_published_and_settled() -> None:
    found = renew(None, HOSTS, NOW, LIVES, published=True)
    late = NOW + 700
    coming = renew(found, HOSTS, late, LIVES, published=True)
    assert coming.next
    assert coming.certificate == found.certificate, "served is what everyone trusts"
    waiting = renew(coming, HOSTS, late + 100, LIVES, published=False)
    assert waiting.next, "nobody may have seen it"
    assert renew(coming, HOSTS, late + 9, LIVES, published=True).signer == found.signer
    taken = renew(coming, HOSTS, late + 10, LIVES, published=True)
    assert taken.signer == coming.next
    assert found.signer in taken.bundle, "a replica may serve the old certificate for a moment"
    assert renew(taken, HOSTS, late + 15, LIVES, published=True) is taken
    alone = renew(taken, HOSTS, late + 20, LIVES, published=True)
    assert alone.bundle == alone.signer == coming.next


def test_a_deleted_secret_asks_for_new_keys_and_the_old_authority_is_trusted_on() -> None:
    found = renew(None, HOSTS, NOW, LIVES, published=True)
    anew = renew(None, HOSTS, NOW + 5, LIVES, published=False, trusted=found.bundle)
    assert anew.signer != found.signer
    assert trusts(anew.bundle, found.certificate, NOW + 5)
    assert trusts(anew.bundle, anew.certificate, NOW + 5)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.tuples(st.floats(0.5, 25.0), st.booleans(), st.booleans()), min_size=40, max_size=100))
def test_whatever_the_pace_what_is_served_is_trusted(steps: list[tuple[float, bool, bool]]) -> None:
    """Bundles reach the API server some steps late, certificates the replicas as well; looks come at any pace.

    As promised, each replica gets through within the overlap.
    """
    lives = Lifetimes(authority=1000.0, serving=300.0, overlap=60.0)
    now = NOW
    found = renew(None, HOSTS, now, lives, published=False)
    registered, served, looked = found.bundle, found.certificate, now
    for pause, sees, loads in steps:
        now += pause
        found = renew(found, HOSTS, now, lives, published=registered == found.bundle)
        late = now - looked > lives.overlap - 25
        # The order of a look: first the bundle, and only a replica that got that through loads what the Secret has.
        if sees or late:
            registered = found.bundle
        if registered == found.bundle and (loads or late):
            served, looked = found.certificate, now
        assert trusts(registered, served, now)


def test_openssl_agrees(tmp_path: Path) -> None:
    found = renew(None, HOSTS, time.time(), LIVES, published=True)
    (tmp_path / "ca").write_bytes(found.bundle)
    (tmp_path / "crt").write_bytes(found.certificate)
    told = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", tmp_path / "ca", tmp_path / "crt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr


async def test_a_live_server_shows_the_new_certificate_at_the_next_handshake_and_keeps_the_old_when_it_is_broken() -> None:
    now = time.time()
    one = renew(None, HOSTS, now, LIVES, published=True)
    two = renew(one, (*HOSTS, "localhost"), now, LIVES, published=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(context, one.certificate, one.key)

    async def served() -> bytes:
        client = ssl.create_default_context(cadata=one.bundle.decode())
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        shown = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
        return shown

    def der(material: Material) -> bytes:
        return ssl.PEM_cert_to_DER_cert(material.certificate.decode())

    server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await served() == der(one)
        load_chain(context, two.certificate, two.key)
        assert await served() == der(two)
        with pytest.raises(ssl.SSLError):
            load_chain(context, one.certificate, two.key)
        assert await served() == der(two)


async def test_files_of_somebody_else_are_loaded_again_when_they_change() -> None:
    now = time.time()
    one = renew(None, HOSTS, now, LIVES, published=True)
    two = renew(None, HOSTS, now, LIVES, published=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keeper = FolderKeeper(folder, context)
        with pytest.raises(FileNotFoundError):
            await keeper.step()
        (folder / "tls.crt").write_bytes(one.certificate)
        (folder / "tls.key").write_bytes(one.key)
        await keeper.step()
        (folder / "tls.crt").write_bytes(two.certificate)
        with pytest.raises(ssl.SSLError):
            await keeper.step()
        (folder / "tls.key").write_bytes(two.key)
        await keeper.step()


def test_the_clock_of_another_machine_may_be_behind() -> None:
    found = renew(None, HOSTS, NOW, LIVES, published=True)
    assert trusts(found.bundle, found.certificate, NOW - BACKDATED + 1)
