"""The bodies that are taken, under the names and forms that protobuf's JSON has for them."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb

MAX_MESSAGE = 256 * 1024

_Label = Annotated[str, Field(max_length=128)]


class Optimizations(BaseModel):
    """Overrides the agent's switches for one run; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cache_responses: bool | None = None
    parallel_tools: bool | None = None
    eager_tools: bool | None = None
    streaming: bool | None = None
    compression: bool | None = None
    prompt_caching: bool | None = None
    trimming: bool | None = None
    lazy_tools: bool | None = None

    def message(self) -> pb.Optimizations:
        return pb.Optimizations(**self.model_dump(exclude_none=True))


class RunInput(BaseModel):
    """What a run is started with."""

    model_config = ConfigDict(extra="forbid")

    agent: str = Field(
        min_length=1, max_length=63, description="Name of the agent.", examples=["assistant"]
    )
    message: str = Field(
        min_length=1,
        max_length=MAX_MESSAGE,
        description="What the user says; at most 256 KiB of UTF-8, not only spaces.",
        examples=["What is 25 * 17?"],
    )
    conversation_id: UUID | None = Field(
        default=None, description="Left out: a new conversation begins."
    )
    request_id: str | None = Field(
        default=None,
        max_length=128,
        pattern=r"^[^\x00]*$",
        description="Names this request for 24 h: the same one again reads the same run. The "
        "header Idempotency-Key does the same.",
    )
    disconnect_policy: Literal["DISCONNECT_POLICY_CONTINUE", "DISCONNECT_POLICY_CANCEL"] = Field(
        default="DISCONNECT_POLICY_CONTINUE",
        description="What happens to the run when the reader that started it leaves; only for "
        "/v1/chat/stream.",
    )
    timeout: str | None = Field(
        default=None,
        pattern=r"^[0-9]{1,5}(\.[0-9]{1,9})?s$",
        description='Shortens the agent\'s own limit: seconds, as in "30s" or "1.5s".',
    )
    optimizations: Optimizations | None = None
    labels: dict[_Label, _Label] = Field(
        default_factory=dict, max_length=16, description="Given back with the run."
    )
    allow_unremembered: bool = Field(
        default=False,
        strict=True,
        description="Answer even when the turn cannot be remembered.",
    )

    @property
    def seconds(self) -> float | None:
        return None if self.timeout is None else float(self.timeout.removesuffix("s"))

    @property
    def switches(self) -> pb.Optimizations | None:
        return None if self.optimizations is None else self.optimizations.message()
