"""The routes: check, translate, call the orchestrator or memory, translate back.

The API is small and regular: what a gRPC call returns is the body, in the form of
`peregrine.client.jsonl`; what it raises is a problem (`problems`). Lists are paged with `page_size`
and `page_token`. `create_app` makes the ASGI application; the page and the probes are beside it.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import FastAPI, Header, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from peregrine.api.memory.v1 import memory_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client import MemoryClient, PeregrineClient
from peregrine.edge import problems, schema
from peregrine.edge.answers import Served, json_answer
from peregrine.edge.requests import RunInput
from peregrine.edge.streaming import MEDIA_TYPE, EventStream, Streams

_DESCRIPTION = """\
Runs AI agents. A run is a log of events at positions 1, 2, 3 …; `POST /v1/chat/stream` starts one
and streams it, `GET /v1/runs/{run_id}/events` reads it from any position, any number of times."""

_MESSAGES = (
    pb.Run, pb.RunEvent, pb.ListRunsResponse, pb.CancelRunResponse, pb.Agent,
    pb.ListAgentsResponse, memory_pb2.Conversation, memory_pb2.ListConversationsResponse,
    memory_pb2.ListMessagesResponse, memory_pb2.DeleteConversationResponse,
)  # fmt: skip

# Beside the page: what anybody may ask, whoever it is.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"})

PageSize = Annotated[int, Query(ge=0, le=200, description="0: the usual 50.")]
PageToken = Annotated[str, Query(max_length=1024, description="next_page_token of the page before")]
RunId = Annotated[UUID, Path(description="Of a run.")]
ConversationId = Annotated[UUID, Path(description="Of a conversation.")]
AgentName = Annotated[str, Path(min_length=1, max_length=63, pattern=r"^[a-z0-9-]+$")]
IdempotencyKey = Annotated[str | None, Header(max_length=128, min_length=1)]
State = Literal[
    "RUN_STATE_RUNNING",
    "RUN_STATE_AWAITING_APPROVAL",
    "RUN_STATE_IN_DOUBT",
    "RUN_STATE_SUCCEEDED",
    "RUN_STATE_FAILED",
    "RUN_STATE_CANCELLED",
]


_STATES: dict[State, pb.RunState] = {
    "RUN_STATE_RUNNING": pb.RUN_STATE_RUNNING,
    "RUN_STATE_AWAITING_APPROVAL": pb.RUN_STATE_AWAITING_APPROVAL,
    "RUN_STATE_IN_DOUBT": pb.RUN_STATE_IN_DOUBT,
    "RUN_STATE_SUCCEEDED": pb.RUN_STATE_SUCCEEDED,
    "RUN_STATE_FAILED": pb.RUN_STATE_FAILED,
    "RUN_STATE_CANCELLED": pb.RUN_STATE_CANCELLED,
}


class EdgeService:
    """One method for each route."""

    def __init__(
        self, *, orchestrator: PeregrineClient, memory: MemoryClient, streams: Streams
    ) -> None:
        self._orchestrator = orchestrator
        self._memory = memory
        self._streams = streams

    # ---- Runs ----

    async def start_run(
        self, request: Request, body: RunInput, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Starts a run. Once this has answered, the run is durable and will end, or wait visibly.

        Idempotent by request_id."""
        run = await self._orchestrator.start_run(
            body.agent,
            body.message,
            _text(body.conversation_id) or None,
            body.request_id or idempotency_key,
            timeout=body.seconds,
            optimizations=body.switches,
            allow_unremembered=body.allow_unremembered,
            labels=body.labels,
        )
        return json_answer(request, run, status=201, headers={"Location": f"/v1/runs/{run.run_id}"})

    async def chat(self, body: RunInput, idempotency_key: IdempotencyKey = None) -> EventStream:
        """Starts a run and streams its events to the terminal one, run_finished.

        When the connection is lost, read on with GET /v1/runs/{run_id}/events: the first event,
        run_started, names the run."""
        holds = body.disconnect_policy == "DISCONNECT_POLICY_CANCEL"
        batches = self._orchestrator.chat_in_batches(
            body.agent,
            body.message,
            _text(body.conversation_id) or None,
            body.request_id or idempotency_key,
            timeout=body.seconds,
            disconnect_policy=(
                pb.DISCONNECT_POLICY_CANCEL if holds else pb.DISCONNECT_POLICY_CONTINUE
            ),
            optimizations=body.switches,
            allow_unremembered=body.allow_unremembered,
            labels=body.labels,
        )
        return self._streams.stream(batches, starts_run=True, holds_run=holds)

    async def events(
        self,
        run_id: RunId,
        after: Annotated[
            int, Query(ge=0, lt=2**63, description="The position of the last event seen.")
        ] = 0,
        epoch: Annotated[
            int | None,
            Query(
                ge=0,
                lt=2**63,
                description="The epoch of that event: with it the reader is told, too, when what "
                "it saw was lost and is void (log_truncated).",
            ),
        ] = None,
        last_event_id: Annotated[
            str | None,
            Header(
                pattern=r"^[0-9]{1,18}$",
                description="As `after`; what an EventSource sends when it reconnects.",
            ),
        ] = None,
    ) -> EventStream:
        """The events of a run after a position, to the terminal one, as they happen.

        204 when there is nothing more to come."""
        after = max(after, int(last_event_id or 0))
        return self._streams.stream(
            self._orchestrator.watch_run_in_batches(str(run_id), after, epoch)
        )

    async def list_runs(
        self,
        request: Request,
        page_size: PageSize = 0,
        page_token: PageToken = "",
        agent: Annotated[str, Query(max_length=63, pattern=r"^[a-z0-9-]*$")] = "",
        conversation_id: UUID | None = None,
        state: Annotated[list[State] | None, Query(max_length=8)] = None,
    ) -> Response:
        """The user's runs, newest first."""
        page = await self._orchestrator.page_of_runs(
            page_size=page_size,
            page_token=page_token,
            agent=agent,
            conversation_id=_text(conversation_id),
            states=[_STATES[each] for each in state or ()],
        )
        return json_answer(request, page)

    async def get_run(self, request: Request, run_id: RunId) -> Response:
        """One run as it stands."""
        return json_answer(request, await self._orchestrator.get_run(str(run_id)))

    async def cancel_run(self, request: Request, run_id: RunId) -> Response:
        """Asks a run to end as CANCELLED, which follows in its log. Idempotent."""
        state = await self._orchestrator.cancel_run(str(run_id))
        return json_answer(request, pb.CancelRunResponse(state=state))

    # ---- Agents ----

    async def list_agents(
        self, request: Request, page_size: PageSize = 0, page_token: PageToken = ""
    ) -> Response:
        """The agents, by name."""
        page = await self._orchestrator.page_of_agents(page_size=page_size, page_token=page_token)
        return json_answer(request, page)

    async def get_agent(self, request: Request, name: AgentName) -> Response:
        """One agent."""
        return json_answer(request, await self._orchestrator.get_agent(name))

    # ---- Conversations ----

    async def list_conversations(
        self, request: Request, page_size: PageSize = 0, page_token: PageToken = ""
    ) -> Response:
        """The user's conversations, the one changed last first."""
        page = await self._memory.page_of_conversations(page_size=page_size, page_token=page_token)
        return json_answer(request, page)

    async def get_conversation(self, request: Request, conversation_id: ConversationId) -> Response:
        """One conversation, without its messages."""
        found = await self._memory.get_conversation(str(conversation_id))
        return json_answer(request, found)

    async def list_messages(
        self,
        request: Request,
        conversation_id: ConversationId,
        page_size: PageSize = 0,
        page_token: PageToken = "",
    ) -> Response:
        """The messages of a conversation, oldest first."""
        page = await self._memory.page_of_messages(
            str(conversation_id), page_size=page_size, page_token=page_token
        )
        return json_answer(request, page)

    async def delete_conversation(
        self, request: Request, conversation_id: ConversationId
    ) -> Response:
        """Deletes a conversation with all it holds. Idempotent."""
        deleted = await self._memory.delete_conversation(str(conversation_id))
        return json_answer(request, memory_pb2.DeleteConversationResponse(deleted=deleted))


def create_app(
    service: EdgeService, *, files: dict[str, Served], ready: Callable[[], bool]
) -> FastAPI:
    """The application.

    Args:
      files: what is served as it is, by path.
      ready: whether new work is welcome.
    """
    app = FastAPI(
        title="Peregrine",
        version="1",
        description=_DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    for method, path, endpoint, status, responses in _routes(service):
        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            status_code=status,
            response_class=Response,
            response_model=None,
            responses={**responses, "default": schema.problem()},
            operation_id=endpoint.__name__,
        )
    document = schema.document(app, _MESSAGES)

    async def openapi(request: Request) -> Response:
        return json_answer(request, document, headers={"Cache-Control": "no-cache"})

    async def alive(_: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def readiness(_: Request) -> Response:
        if ready():
            return Response("ready\n", media_type="text/plain")
        return Response("not ready\n", status_code=503, media_type="text/plain")

    app.add_route("/openapi.json", openapi)
    app.add_route("/healthz", alive)
    app.add_route("/readyz", readiness)
    for path, file in files.items():
        app.add_route(path, _serve(file))
    return app


def _serve(file: Served) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        return file.answer(request)

    return serve


def _routes(
    service: EdgeService,
) -> list[tuple[str, str, Callable[..., Any], int, dict[int | str, dict[str, Any]]]]:
    """(method, path, endpoint, status, responses), each as the document has it."""

    def gives(kind: Any, said: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
        return {status: schema.message(kind.DESCRIPTOR, said)}

    stream: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "Server-sent events. The id is the event's position, the name the kind "
            "of its payload, the data a RunEvent.",
            "content": {MEDIA_TYPE: {"schema": schema.sent_event("RunEvent")}},
        }
    }
    nothing_more: dict[int | str, dict[str, Any]] = {
        204: {"description": "The run has ended at or before that position."}
    }
    runs, conversations = "/v1/runs", "/v1/conversations"
    one = f"{conversations}/{{conversation_id}}"
    return [
        ("POST", runs, service.start_run, 201, gives(pb.Run, "It runs.", 201)),
        ("POST", "/v1/chat/stream", service.chat, 200, stream),
        ("GET", runs, service.list_runs, 200, gives(pb.ListRunsResponse, "A page.")),
        ("GET", f"{runs}/{{run_id}}", service.get_run, 200, gives(pb.Run, "The run.")),
        ("GET", f"{runs}/{{run_id}}/events", service.events, 200, {**stream, **nothing_more}),
        (
            "POST",
            f"{runs}/{{run_id}}/cancel",
            service.cancel_run,
            200,
            gives(pb.CancelRunResponse, "The state just now."),
        ),
        (
            "GET",
            "/v1/agents",
            service.list_agents,
            200,
            gives(pb.ListAgentsResponse, "A page."),
        ),
        ("GET", "/v1/agents/{name}", service.get_agent, 200, gives(pb.Agent, "The agent.")),
        (
            "GET",
            conversations,
            service.list_conversations,
            200,
            gives(memory_pb2.ListConversationsResponse, "A page."),
        ),
        (
            "GET",
            one,
            service.get_conversation,
            200,
            gives(memory_pb2.Conversation, "The conversation."),
        ),
        (
            "GET",
            f"{one}/messages",
            service.list_messages,
            200,
            gives(memory_pb2.ListMessagesResponse, "A page."),
        ),
        (
            "DELETE",
            one,
            service.delete_conversation,
            200,
            gives(memory_pb2.DeleteConversationResponse, "Whether there was one."),
        ),
    ]


def _text(name: UUID | None) -> str:
    return "" if name is None else str(name)
