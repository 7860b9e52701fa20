"""The messages and calls of the kubelet's device plugin API, v1beta1, as far as a plugin of whole devices uses them.

The wire format is given by the field numbers of ``k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/api.proto``.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

VERSION = "v1beta1"
_TYPES = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
}
_MESSAGES: dict[str, list[tuple[int, str, str, bool]]] = {
    "Empty": [],
    "DevicePluginOptions": [(1, "pre_start_required", "bool", False), (2, "get_preferred_allocation_available", "bool", False)],
    "RegisterRequest": [
        (1, "version", "string", False), (2, "endpoint", "string", False), (3, "resource_name", "string", False),
        (4, "options", "DevicePluginOptions", False),
    ],
    "Device": [(1, "ID", "string", False), (2, "health", "string", False)],
    "ListAndWatchResponse": [(1, "devices", "Device", True)],
    "ContainerAllocateRequest": [(1, "devices_ids", "string", True)],
    "AllocateRequest": [(1, "container_requests", "ContainerAllocateRequest", True)],
    "Pair": [(1, "key", "string", False), (2, "value", "string", False)],
    "DeviceSpec": [
        (1, "container_path", "string", False), (2, "host_path", "string", False), (3, "permissions", "string", False),
    ],
    "ContainerAllocateResponse": [(1, "envs", "Pair", True), (3, "devices", "DeviceSpec", True)],
    "AllocateResponse": [(1, "container_responses", "ContainerAllocateResponse", True)],
}  # fmt: skip
"""Message -> its fields: number, name, type, whether repeated. A map is a repeated pair on the wire."""


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="shoal/deviceplugin.proto", package=VERSION, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind, repeated in fields:
            label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED if repeated else (
                descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            )  # fmt: skip
            added = message.field.add(name=field, number=number, label=label)
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
                added.type_name = f".{VERSION}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{VERSION}.{name}")) for name in _MESSAGES}


MESSAGES = _classes()
"""Name -> class."""
PLUGIN, REGISTRATION = f"{VERSION}.DevicePlugin", f"{VERSION}.Registration"
