"""One kind of the API, as a stream of differences: list, watch, and never a gap.

It begins with a streaming list (an old server gets a paged one), then watches with bookmarks. A watch that ends or is
cut resumes at the last version seen; when that is too old (410), everything is listed again and only what differs is
told: what is gone as Deleted, what changed as Put.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from shoal_kube.errors import Forbidden, Gone, Invalid, KubeError, NotFound, Throttled
from shoal_kube.resources import Resource
from shoal_kube.transport import Kube
from shoal_model.objects import Meta, drop_nulls

log = logging.getLogger(__name__)
T = TypeVar("T")
Key = tuple[str, str]
SILENCE = 90.0
"""Seconds without a byte after which a watch is taken for dead; bookmarks come about once a minute."""
SHORTEST = 1.0
"""Seconds that a watch lasts at least; one that ends sooner is reopened after a pause."""
PAGE = 500
INITIAL_END = "k8s.io/initial-events-end"


@dataclass(frozen=True)
class Put(Generic[T]):
    """An object is there, new or changed. ``raw`` is its JSON."""

    key: Key
    uid: str
    version: str
    value: T
    raw: bytes


@dataclass(frozen=True)
class Deleted:
    """An object is gone."""

    key: Key
    uid: str


@dataclass(frozen=True)
class Synced:
    """Everything up to this version has been told."""

    version: str


@dataclass(frozen=True)
class Bad:
    """An object that does not decode; what was known of it before no longer holds. ``key`` None: nobody knows which."""

    key: Key | None
    uid: str
    version: str
    error: str
    raw: bytes = b""


@dataclass(frozen=True)
class Denied:
    """The kind may not be read, or does not exist; it is tried again."""

    error: str


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Head(msgspec.Struct):
    metadata: Meta = msgspec.field(default_factory=Meta)


class _Code(msgspec.Struct):
    code: int = 500
    message: str = ""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    items: list[msgspec.Raw] = []
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)


_EVENT = msgspec.json.Decoder(_Event)
_HEAD = msgspec.json.Decoder(_Head)
_LIST = msgspec.json.Decoder(_List)

Told = Put[T] | Deleted | Synced | Bad | Denied


class Reflector(Generic[T]):
    """Tells the differences of one kind, for ever. ``kind`` is a Struct with ``metadata``."""

    def __init__(self, kube: Kube, resource: Resource, kind: type[T], *, selector: str = "") -> None:
        self._kube, self._resource, self._selector = kube, resource, selector
        self._decoder = msgspec.json.Decoder(kind)
        self._known: dict[Key, tuple[str, str]] = {}
        """key -> (uid, version)."""
        self._version = ""
        self._streaming = True
        self._denied = False

    async def run(self) -> AsyncIterator[Told[T]]:
        """The differences. Errors of the API are waited out with a growing pause (0.3 to 30 s, with jitter).

        So is a watch that ends within a second, or without a word. A kind that may not be read, or that is not there, is
        told as Denied, once until it was read.
        """
        wait = 0.3
        clock = asyncio.get_running_loop().time
        while True:
            try:
                if not self._version:
                    async for told in self._list():
                        yield told
                    wait = 0.3
                    self._denied = False
                    yield Synced(self._version)
                began, quiet = clock(), True
                async for told in self._watch():
                    wait, quiet = 0.3, False
                    yield told
                if quiet or clock() - began < SHORTEST:
                    await asyncio.sleep(wait * (0.5 + random.random() / 2))
                    wait = min(30.0, wait * 2)
            except Gone:
                log.info("%s: version %s is too old, listing again", self._resource.plural, self._version)
                self._version = ""
                wait = min(wait, 1.0)
                await asyncio.sleep(wait * random.random())
            except KubeError as error:
                if isinstance(error, Forbidden | NotFound) and not self._denied:
                    self._denied = True
                    log.warning("%s can't be read: %s", self._resource.plural, error)
                    yield Denied(str(error))
                else:
                    log.info("%s: %s", self._resource.plural, error)
                pause = max(wait, error.retry_after) if isinstance(error, Throttled) else wait
                await asyncio.sleep(pause * (0.5 + random.random() / 2))
                wait = min(30.0, wait * 2)

    def _take(self, raw: msgspec.Raw | bytes) -> Put[T] | Bad | None:
        """The object as news; None when that version was told already."""
        text = bytes(raw)
        try:
            meta = _HEAD.decode(text).metadata
        except msgspec.DecodeError as error:
            return _nameless(error)
        key = (meta.namespace, meta.name)
        if self._known.get(key) == (meta.uid, meta.resource_version):
            return None
        self._known[key] = (meta.uid, meta.resource_version)
        try:
            value = self._decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            return Bad(key, meta.uid, meta.resource_version, str(error), text)
        return Put(key, meta.uid, meta.resource_version, value, text)

    def _decode(self, text: bytes) -> T:
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError:
            # Resources whose schema keeps unknown fields may hold nulls, which mean nothing.
            found = msgspec.json.decode(text)
            drop_nulls(found)
            return msgspec.convert(found, self._decoder.type)

    def _drop(self, seen: set[Key]) -> list[Deleted]:
        gone = [key for key in self._known if key not in seen]
        return [Deleted(key, self._known.pop(key)[0]) for key in gone]

    async def _list(self) -> AsyncIterator[Told[T]]:
        if self._streaming:
            try:
                async for told in self._stream_list():
                    yield told
                return
            except Invalid:
                self._streaming = False
        seen: set[Key] = set()
        following = ""
        while True:
            paging = f"?limit={PAGE}{self._selector}" + (f"&continue={following}" if following else "")
            try:
                page = _LIST.decode(await self._kube.get(self._resource.everywhere + paging))
            except Gone:
                if not following:
                    raise
                # The continue token is too old: begin again.
                following = ""
                seen.clear()
                continue
            for raw in page.items:
                try:
                    meta = _HEAD.decode(bytes(raw)).metadata
                except msgspec.DecodeError as error:
                    yield _nameless(error)
                    continue
                seen.add((meta.namespace, meta.name))
                if told := self._take(raw):
                    yield told
            following = page.metadata.continue_
            if not following:
                self._version = page.metadata.resource_version
                break
        for told in self._drop(seen):
            yield told

    async def _stream_list(self) -> AsyncIterator[Told[T]]:
        path = (
            f"{self._resource.everywhere}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
            f"&allowWatchBookmarks=true&timeoutSeconds=300{self._selector}"
        )
        seen: set[Key] = set()
        async with self._kube.stream(path, SILENCE) as lines:
            async for line in lines:
                try:
                    event = _EVENT.decode(line)
                    if event.type == "ERROR":
                        raise _failure(event.object)
                    head = _HEAD.decode(bytes(event.object)).metadata
                except msgspec.DecodeError as error:
                    yield _nameless(error)
                    continue
                if event.type == "BOOKMARK":
                    if (head.annotations or {}).get(INITIAL_END) == "true":
                        self._version = head.resource_version
                        for told in self._drop(seen):
                            yield told
                        return
                    continue
                if event.type == "DELETED":
                    # Changes may come among the objects of the list.
                    key = (head.namespace, head.name)
                    seen.discard(key)
                    if self._known.pop(key, None) is not None:
                        yield Deleted(key, head.uid)
                    continue
                seen.add((head.namespace, head.name))
                if told := self._take(event.object):
                    yield told
        raise KubeError(0, "Cut", "the list ended before its end")

    async def _watch(self) -> AsyncIterator[Told[T]]:
        seconds = random.randint(240, 360)
        path = (
            f"{self._resource.everywhere}?watch=1&allowWatchBookmarks=true&resourceVersion={self._version}"
            f"&timeoutSeconds={seconds}{self._selector}"
        )
        async with self._kube.stream(path, SILENCE) as lines:
            async for line in lines:
                try:
                    event = _EVENT.decode(line)
                except msgspec.DecodeError as error:
                    yield _nameless(error)
                    continue
                if event.type == "ERROR":
                    raise _failure(event.object)
                try:
                    meta = _HEAD.decode(bytes(event.object)).metadata
                except msgspec.DecodeError as error:
                    yield _nameless(error)
                    continue
                if event.type == "BOOKMARK":
                    self._version = meta.resource_version
                    yield Synced(self._version)
                elif event.type == "DELETED":
                    self._known.pop((meta.namespace, meta.name), None)
                    self._version = meta.resource_version
                    yield Deleted((meta.namespace, meta.name), meta.uid)
                else:
                    told = self._take(event.object)
                    self._version = meta.resource_version
                    if told:
                        yield told


def _nameless(error: Exception) -> Bad:
    return Bad(None, "", "", str(error))


def _failure(raw: msgspec.Raw) -> KubeError:
    code = msgspec.json.decode(bytes(raw), type=_Code)
    if code.code == 410:
        return Gone(410, "Expired", code.message)
    return KubeError(code.code, "WatchError", code.message)
