"""Certificates of admission: an authority, a serving pair, and their renewal without a gap. Pure; time is an argument.

Renewal of the authority: the next one is published beside the current (``bundle``), after the overlap it signs the
serving certificate, after another the old one is dropped. So at each moment whoever has the bundle of the moment
before still trusts what is served.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass, fields, replace

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATED = 300.0
"""Seconds by which certificates begin in the past: clocks differ."""
LEFT = 1 / 3
"""Share of its life that a certificate has left when it is renewed."""


@dataclass(frozen=True)
class Lifetimes:
    """In seconds."""

    authority: float = 5 * 365 * 86_400.0
    serving: float = 90 * 86_400.0
    overlap: float = 3600.0
    """Between two steps of a renewal: long enough that every replica and every API server has seen the one before."""


@dataclass(frozen=True)
class Material:
    """What the Secret holds, PEM. ``next_*`` are empty while no new authority is on its way."""

    bundle: bytes
    """All authorities to be trusted."""
    signer: bytes
    signer_key: bytes
    certificate: bytes
    key: bytes
    next: bytes = b""
    next_key: bytes = b""
    changed: float = 0.0
    """When the authorities changed last, seconds since the epoch."""


KEYS = {
    "bundle": "ca.crt", "signer": "signer.crt", "signer_key": "signer.key", "certificate": "tls.crt", "key": "tls.key",
    "next": "next.crt", "next_key": "next.key", "changed": "changed",
}  # fmt: skip
"""Field of Material -> key of the Secret."""


def to_data(found: Material) -> dict[str, bytes]:
    """The Secret's data."""
    values = {f.name: getattr(found, f.name) for f in fields(Material)}
    return {KEYS[name]: v if isinstance(v, bytes) else repr(v).encode() for name, v in values.items()}


def from_data(data: dict[str, bytes]) -> Material | None:
    """The material of a Secret, or None where it holds none that can be used."""
    try:
        values = {name: data[key] for name, key in KEYS.items()}
        found = Material(**{**values, "changed": float(values["changed"])})  # type: ignore[arg-type]
        for pem in (found.signer, found.certificate, *([found.next] if found.next else [])):
            x509.load_pem_x509_certificate(pem)
        for pem in (found.signer_key, found.key, *([found.next_key] if found.next_key else [])):
            _load_key(pem)
        x509.load_pem_x509_certificates(found.bundle)
    except (KeyError, ValueError, TypeError):
        return None
    return found


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not a key of ours")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _at(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def ends(pem: bytes) -> float:
    """When the (first) certificate ends, seconds since the epoch."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def _due(pem: bytes, now: float) -> bool:
    found = x509.load_pem_x509_certificate(pem)
    begin, end = found.not_valid_before_utc.timestamp() + BACKDATED, found.not_valid_after_utc.timestamp()
    return end - now < (end - begin) * LEFT


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, end: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_at(now - BACKDATED))
        .not_valid_after(_at(end))
    )


def _authority(now: float, life: float) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"shoal-admission-{x509.random_serial_number():x}"[:48])])
    certificate = (
        _builder(name, name, key, now, now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _private(key)


def _names(hosts: tuple[str, ...]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in hosts:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _serving(signer: bytes, signer_key: bytes, hosts: tuple[str, ...], now: float, life: float) -> tuple[bytes, bytes]:
    authority, authority_key = x509.load_pem_x509_certificate(signer), _load_key(signer_key)
    key = ec.generate_private_key(ec.SECP256R1())
    # The common name is for people, and has room for 64 characters.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    end = min(now + life, authority.not_valid_after_utc.timestamp())
    certificate = (
        _builder(name, authority.subject, key, now, end)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )  # fmt: skip
    return _pem(certificate), _private(key)


def _fits(found: Material, hosts: tuple[str, ...]) -> bool:
    """Whether the serving certificate is of these hosts and of the signer."""
    certificate, signer = x509.load_pem_x509_certificate(found.certificate), x509.load_pem_x509_certificate(found.signer)
    try:
        certificate.verify_directly_issued_by(signer)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (InvalidSignature, ValueError, TypeError, x509.ExtensionNotFound):
        return False
    return set(names) >= set(_names(hosts))


def _fresh(hosts: tuple[str, ...], now: float, lives: Lifetimes, old: bytes) -> Material:
    signer, signer_key = _authority(now, lives.authority)
    certificate, key = _serving(signer, signer_key, hosts, now, lives.serving)
    return Material(signer + old, signer, signer_key, certificate, key, changed=now)


def renew(
    found: Material | None, hosts: tuple[str, ...], now: float, lives: Lifetimes, *, published: bool, trusted: bytes = b""
) -> Material:
    """The material as it should be; ``found`` itself where nothing is due. One step at a time.

    ``published``: the bundle of ``found`` stands in every webhook configuration. ``trusted``: the bundle that stands there
    still, kept where all begins anew (the Secret was deleted: the administrator's way to ask for new keys).
    """
    if found is None or ends(found.signer) <= now:
        return _fresh(hosts, now, lives, trusted if found is None else found.bundle)
    settled = published and now - found.changed >= lives.overlap
    if found.next and settled:
        certificate, key = _serving(found.next, found.next_key, hosts, now, lives.serving)
        return Material(found.bundle, found.next, found.next_key, certificate, key, changed=now)
    if not found.next and _due(found.signer, now):
        following, following_key = _authority(now, lives.authority)
        return replace(found, bundle=found.bundle + following, next=following, next_key=following_key, changed=now)
    if _due(found.certificate, now) or not _fits(found, hosts):
        certificate, key = _serving(found.signer, found.signer_key, hosts, now, lives.serving)
        # Near the signer's end the life is what is left of it: renewing would gain nothing.
        if ends(certificate) > ends(found.certificate) or not _fits(found, hosts):
            return replace(found, certificate=certificate, key=key)
    if not found.next and found.bundle != found.signer and settled:
        return replace(found, bundle=found.signer, changed=now)
    return found
