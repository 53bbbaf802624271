"""The protos as protoc sees them: descriptors with comments and line numbers."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc  # type: ignore[import-untyped] # ships no annotations

from tests.contract.repository import PROTOS

FieldDescriptor = descriptor_pb2.FieldDescriptorProto
MessageDescriptor = descriptor_pb2.DescriptorProto

_MESSAGES, _ENUMS, _SERVICES, _SYNTAX = 4, 5, 6, 12
_FIELDS, _NESTED, _METHODS = 2, 3, 2
_Location = tuple[int, ...]


@dataclass(frozen=True)
class Field:
    proto: FieldDescriptor
    message: str
    where: str
    comment: str

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def type(self) -> str:
        """`string`, `int64` … or the full name of the message or enum."""
        if self.proto.type_name:
            return self.proto.type_name.removeprefix(".")
        return str(FieldDescriptor.Type.Name(self.proto.type)).removeprefix("TYPE_").lower()

    @property
    def repeated(self) -> bool:
        return self.proto.label == FieldDescriptor.LABEL_REPEATED

    @property
    def optional(self) -> bool:
        return self.proto.proto3_optional

    @property
    def in_oneof(self) -> bool:
        return self.proto.HasField("oneof_index") and not self.proto.proto3_optional


@dataclass(frozen=True)
class Message:
    name: str
    fields: tuple[Field, ...]
    where: str
    is_map_entry: bool
    nested_enums: tuple[str, ...]

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


@dataclass(frozen=True)
class Rpc:
    name: str
    service: str
    request: str
    response: str
    client_streaming: bool
    server_streaming: bool
    where: str
    comment: str

    @property
    def short(self) -> str:
        """`Service/Rpc`, unique over all packages."""
        return f"{self.service.rpartition('.')[2]}/{self.name}"


@dataclass(frozen=True)
class Service:
    name: str
    rpcs: tuple[Rpc, ...]
    where: str
    comment: str


@dataclass(frozen=True)
class Enum:
    name: str
    values: tuple[tuple[str, int], ...]
    where: str


@dataclass
class File:
    path: str
    package: str
    syntax: str
    imports: tuple[str, ...]
    comment: str
    messages: list[Message] = field(default_factory=list)
    enums: list[Enum] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)


@dataclass(frozen=True)
class Contract:
    files: tuple[File, ...]

    def messages(self) -> dict[str, Message]:
        return {message.name: message for file in self.files for message in file.messages}

    def rpcs(self) -> Iterator[Rpc]:
        for file in self.files:
            for service in file.services:
                yield from service.rpcs

    def fields(self) -> Iterator[Field]:
        for file in self.files:
            for message in file.messages:
                yield from message.fields


def run_protoc(*arguments: str) -> None:
    well_known = resources.files("grpc_tools") / "_proto"
    status = protoc.main(["protoc", *arguments, f"-I{well_known}"])
    if status != 0:
        raise AssertionError(f"protoc ended with {status}; its complaint is on stderr")


def proto_files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.proto"))


def compiled(directory: Path, scratch: Path) -> Contract:
    """The contract that the `.proto` files below `directory` make."""
    output = scratch / "descriptors.bin"
    names = proto_files(directory)
    run_protoc(
        f"-I{directory}",
        f"-I{PROTOS}",
        "--include_source_info",
        f"--descriptor_set_out={output}",
        *names,
    )
    files = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())
    return Contract(tuple(_file(file) for file in files.file))


def _file(proto: descriptor_pb2.FileDescriptorProto) -> File:
    locations = {tuple(location.path): location for location in proto.source_code_info.location}

    def where(path: _Location) -> str:
        line = locations[path].span[0] + 1 if path in locations else 0
        return f"{proto.name}:{line}"

    @functools.cache
    def comment(path: _Location) -> str:
        location = locations.get(path)
        return location.leading_comments.strip() if location else ""

    def messages(
        nested: Iterator[tuple[_Location, MessageDescriptor]], prefix: str
    ) -> Iterator[Message]:
        for path, message in nested:
            name = f"{prefix}.{message.name}"
            yield Message(
                name=name,
                fields=tuple(
                    Field(
                        proto=one,
                        message=name,
                        where=where((*path, _FIELDS, index)),
                        comment=comment((*path, _FIELDS, index)),
                    )
                    for index, one in enumerate(message.field)
                ),
                where=where(path),
                is_map_entry=message.options.map_entry,
                nested_enums=tuple(enum.name for enum in message.enum_type),
            )
            inner = enumerate(message.nested_type)
            yield from messages((((*path, _NESTED, i), one) for i, one in inner), name)

    file = File(
        path=proto.name,
        package=proto.package,
        syntax=proto.syntax,
        imports=tuple(proto.dependency),
        comment=comment((_SYNTAX,)),
    )
    top = (((_MESSAGES, index), one) for index, one in enumerate(proto.message_type))
    file.messages = list(messages(top, proto.package))
    for index, enum in enumerate(proto.enum_type):
        values = tuple((value.name, value.number) for value in enum.value)
        file.enums.append(Enum(f"{proto.package}.{enum.name}", values, where((_ENUMS, index))))
    for number, service in enumerate(proto.service):
        full = f"{proto.package}.{service.name}"
        rpcs = tuple(
            Rpc(
                name=method.name,
                service=full,
                request=method.input_type.removeprefix("."),
                response=method.output_type.removeprefix("."),
                client_streaming=method.client_streaming,
                server_streaming=method.server_streaming,
                where=where((_SERVICES, number, _METHODS, index)),
                comment=comment((_SERVICES, number, _METHODS, index)),
            )
            for index, method in enumerate(service.method)
        )
        at = (_SERVICES, number)
        file.services.append(Service(full, rpcs, where(at), comment(at)))
    return file
