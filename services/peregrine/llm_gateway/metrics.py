"""What the gateway counts. Created once, by `main`, on the registry of the process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FIRST_TOKEN = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_OVERHEAD = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
_PROMPT_TOKENS = (100, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 200_000)
# Names of models come from callers: labels are bounded, the rest is counted together.
MAX_MODELS = 50


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._models: set[str] = set()
        self.first_token = Histogram(
            "peregrine_llm_first_token_seconds",
            "From the start of a generation to its first content.",
            ["model"],
            buckets=_FIRST_TOKEN,
            registry=registry,
        )
        self.requests = Counter(
            "peregrine_llm_requests_total",
            "Model calls by outcome: success, cancelled, or the reason of the error. A retry is a "
            "call of its own.",
            ["model", "status"],
            registry=registry,
        )
        self.overhead = Histogram(
            "peregrine_llm_overhead_seconds",
            "The gateway's own time per generation: queueing, building and handling events.",
            buckets=_OVERHEAD,
            registry=registry,
        )
        self.tokens = Counter(
            "peregrine_llm_tokens_total",
            "Tokens as the provider counted them; kind is input, output, cache_read or "
            "cache_creation.",
            ["model", "kind"],
            registry=registry,
        )
        self.prompt_tokens = Histogram(
            "peregrine_llm_prompt_tokens",
            "Prompt tokens per model call, cached ones included.",
            ["model"],
            buckets=_PROMPT_TOKENS,
            registry=registry,
        )
        self.inflight = Gauge("peregrine_llm_inflight", "Generations at work.", registry=registry)
        self.broken_arguments = Counter(
            "peregrine_llm_broken_tool_arguments_total",
            "Tool calls whose arguments, as the model wrote them, are not a JSON object.",
            registry=registry,
        )

    def model(self, name: str) -> str:
        """The label of a model."""
        if name not in self._models:
            if len(self._models) >= MAX_MODELS:
                return "other"
            self._models.add(name)
        return name
