"""The canonical prompt as the provider's request: pure, and exact where exactness matters.

JSON that came from the model or the caller (opaque blocks, tool arguments, schemas) is checked and
then embedded as the bytes it is, never parsed and written again: thinking must return with its
signature intact, and the provider's prompt cache compares prefixes.

Prompt caching marks at most four prefixes, the provider's limit: the tools, the system prompt, the
last message (which the next step of an agent extends), and the user message before it (which the
previous step marked, so that its prefix is found however many blocks were added since).
"""

from collections.abc import Sequence
from typing import Any

import orjson

from peregrine.api.common.v1 import common_pb2
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.kit.errors import InvalidArgument
from peregrine.llm_gateway.translation import is_object

MAX_MESSAGES = 10_000
MAX_FALLBACK_MODELS = 8
MAX_TOOLS = 1_000
MAX_MODEL_NAME = 200
MAX_JSON_BYTES = 5 * 1024 * 1024
DEFAULT_OUTPUT_TOKENS = 4096

_ROLES = {common_pb2.ROLE_USER: "user", common_pb2.ROLE_ASSISTANT: "assistant"}
_TOOL_CHOICES = {
    pb.TOOL_CHOICE_AUTO: "auto",
    pb.TOOL_CHOICE_ANY: "any",
    pb.TOOL_CHOICE_NONE: "none",
}
_CACHED = {"type": "ephemeral"}
# The provider refuses a mark on these; it goes on the block before.
_UNMARKABLE = frozenset({"thinking", "redacted_thinking"})

Body = dict[str, Any]


def generation(prompt: pb.Prompt, *, prompt_caching: bool) -> Body:
    """The body of a streamed generation, but for the model.

    Raises:
      InvalidArgument: REQUEST_INVALID, naming every field that is wrong.
    """
    problems: list[tuple[str, str]] = []
    body = _prompt(prompt, problems, prompt_caching=prompt_caching)
    limit = prompt.max_output_tokens or DEFAULT_OUTPUT_TOKENS
    body["max_tokens"] = limit
    body["stream"] = True
    if prompt.HasField("temperature"):
        if not 0.0 <= prompt.temperature <= 1.0:
            problems.append(("prompt.temperature", "is not between 0.0 and 1.0"))
        body["temperature"] = prompt.temperature
    if prompt.stop_sequences:
        body["stop_sequences"] = list(prompt.stop_sequences)
    if prompt.thinking_budget_tokens >= limit:
        problems.append(("prompt.thinking_budget_tokens", "is not below max_output_tokens"))
    _refuse(problems)
    return body


def counting(prompt: pb.Prompt) -> Body:
    """The body of a token count, but for the model.

    Raises:
      InvalidArgument: REQUEST_INVALID, naming every field that is wrong.
    """
    problems: list[tuple[str, str]] = []
    body = _prompt(prompt, problems, prompt_caching=False)
    _refuse(problems)
    return body


def encode(body: Body, model: str) -> bytes:
    """The request for one model, as it goes over the wire."""
    return orjson.dumps({"model": model, **body})


def check_fallbacks(models: Sequence[str]) -> None:
    """Raises InvalidArgument: REQUEST_INVALID, for too many models or a name that is none."""
    if len(models) > MAX_FALLBACK_MODELS:
        _refuse([("fallback_models", f"are more than {MAX_FALLBACK_MODELS}")])
    if not all(1 <= len(model) <= MAX_MODEL_NAME for model in models):
        _refuse([("fallback_models", f"hold a name not 1 to {MAX_MODEL_NAME} characters long")])


def _refuse(problems: list[tuple[str, str]]) -> None:
    if problems:
        field, wrong = problems[0]
        raise InvalidArgument(
            f"the request cannot be sent to a model: {field} {wrong}",
            reason="REQUEST_INVALID",
            violations=problems,
        )


def _prompt(prompt: pb.Prompt, problems: list[tuple[str, str]], *, prompt_caching: bool) -> Body:
    if not 1 <= len(prompt.model) <= MAX_MODEL_NAME:
        problems.append(("prompt.model", f"is not 1 to {MAX_MODEL_NAME} characters long"))
    if not 1 <= len(prompt.messages) <= MAX_MESSAGES:
        problems.append(("prompt.messages", f"are {len(prompt.messages)}, not 1 to {MAX_MESSAGES}"))
    elif prompt.messages[0].role != common_pb2.ROLE_USER:
        problems.append(("prompt.messages[0].role", "is not the user's"))
    if len(prompt.tools) > MAX_TOOLS:
        problems.append(("prompt.tools", f"are more than {MAX_TOOLS}"))
    if problems:
        return {}
    body: Body = {}
    # In the order in which the provider reads a prompt: tools, system, messages.
    if prompt.tools:
        body["tools"] = [_tool(at, tool, problems) for at, tool in enumerate(prompt.tools)]
        if prompt.tool_choice in _TOOL_CHOICES:
            body["tool_choice"] = {"type": _TOOL_CHOICES[prompt.tool_choice]}
        if prompt_caching:
            body["tools"][-1]["cache_control"] = _CACHED
    if prompt.system:
        system: Body = {"type": "text", "text": prompt.system}
        if prompt_caching:
            system["cache_control"] = _CACHED
        body["system"] = [system]
    body["messages"] = [
        _message(f"prompt.messages[{at}]", message, problems)
        for at, message in enumerate(prompt.messages)
    ]
    if prompt.thinking_budget_tokens:
        budget = prompt.thinking_budget_tokens
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if prompt_caching and not problems:
        _mark(body["messages"])
    return body


def _tool(at: int, tool: pb.ToolDefinition, problems: list[tuple[str, str]]) -> Body:
    where = f"prompt.tools[{at}]"
    if not tool.name:
        problems.append((f"{where}.name", "is empty"))
    body: Body = {"name": tool.name}
    if tool.description:
        body["description"] = tool.description
    schema = tool.input_schema.utf8 or b'{"type":"object"}'
    body["input_schema"] = _object(f"{where}.input_schema", schema, problems)
    return body


def _message(where: str, message: common_pb2.Message, problems: list[tuple[str, str]]) -> Body:
    role = _ROLES.get(message.role)
    if role is None:
        problems.append((f"{where}.role", "is not set"))
    content = _content(where, message.content, problems)
    if not content:
        problems.append((f"{where}.content", "is empty"))
    return {"role": role, "content": content}


def _content(
    where: str, blocks: Sequence[common_pb2.ContentBlock], problems: list[tuple[str, str]]
) -> list[Any]:
    content: list[Any] = []
    for at, block in enumerate(blocks):
        match block.WhichOneof("block"):
            case "text":
                # The provider refuses an empty text, and it says nothing.
                if block.text:
                    content.append({"type": "text", "text": block.text})
            case "tool_use":
                call = block.tool_use
                content.append(
                    {
                        "type": "tool_use",
                        "id": call.call_id,
                        "name": call.tool,
                        "input": _arguments(call.arguments.utf8),
                    }
                )
            case "tool_outcome":
                content.append(_outcome(f"{where}.content[{at}]", block.tool_outcome, problems))
            case "opaque":
                opaque = f"{where}.content[{at}].opaque"
                content.append(_object(opaque, block.opaque.utf8, problems))
            case _:
                problems.append((f"{where}.content[{at}]", "is a block of an unknown kind"))
    return content


def _outcome(where: str, outcome: common_pb2.ToolOutcome, problems: list[tuple[str, str]]) -> Body:
    body: Body = {"type": "tool_result", "tool_use_id": outcome.call_id}
    if any(block.WhichOneof("block") not in ("text", "opaque") for block in outcome.content):
        problems.append((f"{where}.tool_outcome.content", "holds more than text and opaque blocks"))
    elif content := _content(f"{where}.tool_outcome", outcome.content, problems):
        body["content"] = content
    if outcome.is_error:
        body["is_error"] = True
    return body


def _arguments(utf8: bytes) -> Any:
    if not utf8:
        return {}
    if is_object(utf8):
        return orjson.Fragment(utf8)
    # The model wrote something else, which its API does not take back; this is the form its maker
    # advises for telling it so.
    return {"INVALID_JSON": utf8.decode(errors="replace")}


def _object(where: str, utf8: bytes, problems: list[tuple[str, str]]) -> Any:
    if len(utf8) > MAX_JSON_BYTES:
        problems.append((where, f"is larger than {MAX_JSON_BYTES} bytes"))
    elif not is_object(utf8):
        problems.append((where, "is not a JSON object"))
    return orjson.Fragment(utf8)


def _mark(messages: list[Body]) -> None:
    _mark_message(messages[-1])
    for message in reversed(messages[:-1]):
        if message["role"] == "user":
            _mark_message(message)
            return


def _mark_message(message: Body) -> None:
    content = message["content"]
    for at in range(len(content) - 1, -1, -1):
        block = content[at]
        if isinstance(block, orjson.Fragment):
            block = orjson.loads(orjson.dumps(block))
            if block.get("type") in _UNMARKABLE:
                continue
            content[at] = block
        block["cache_control"] = _CACHED
        return
