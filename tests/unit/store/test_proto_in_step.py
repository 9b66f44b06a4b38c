"""The committed protobuf messages agree with the .proto files beside them."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

import spegel_py

ROOT = Path(spegel_py.__file__).parent.parent
PROTOS = sorted(
    path.relative_to(ROOT)
    for folder in ("spegel_py/store/containerd/api", "tests/cri")
    for path in (ROOT / folder).glob("*.proto")
)

_TYPES = {
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_UINT64: "uint64",
    FieldDescriptorProto.TYPE_BOOL: "bool",
}


def test_there_are_protos() -> None:
    """The list below is not empty by accident."""
    assert len(PROTOS) >= 4


@pytest.mark.parametrize("path", PROTOS, ids=str)
def test_generated_messages_are_in_step(path: Path) -> None:
    """Package, services, messages and field numbers are equal; else run `make protos`."""
    module: Any = importlib.import_module(f"{'.'.join(path.with_suffix('').parts)}_pb2")
    generated = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    assert _described(generated) == _written((ROOT / path).read_text())


def _described(file: FileDescriptorProto) -> dict[str, list[str]]:
    found = {"package": [file.package]}
    for service in file.service:
        found[f"service {service.name}"] = [
            f"{method.name}({'stream ' if method.client_streaming else ''}"
            f"{_name(method.input_type)}) "
            f"{'stream ' if method.server_streaming else ''}"
            f"{_name(method.output_type)}"
            for method in service.method
        ]
    for message in file.message_type:
        found[f"message {message.name}"] = [
            f"{'repeated ' if field.label == field.LABEL_REPEATED else ''}"
            f"{_TYPES.get(field.type) or _name(field.type_name)} {field.name} = {field.number}"
            for field in message.field
        ]
    return found


def _written(text: str) -> dict[str, list[str]]:
    text = re.sub(r"//[^\n]*", "", text)
    found = {"package": re.findall(r"^package ([\w.]+);", text, re.MULTILINE)}
    for kind, name, body in re.findall(
        r"^(service|message) (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL
    ):
        if kind == "service":
            pattern = r"rpc (\w+)\((stream )?([\w.]+)\) returns \((stream )?([\w.]+)\);"
            found[f"service {name}"] = [
                f"{call}({by}{_name(sent)}) {how}{_name(got)}"
                for call, by, sent, how, got in re.findall(pattern, body)
            ]
        else:
            fields = re.findall(r"(repeated )?([\w.]+) (\w+) = (\d+);", body)
            found[f"message {name}"] = [
                f"{many}{_name(type_)} {field} = {number}" for many, type_, field, number in fields
            ]
    return found


def _name(full: str) -> str:
    return full.rpartition(".")[2]
