"""What the recorded errors must lead to, and every recording that is an exception to a rule, each with its reason.

The class of an error follows from status and body as `../shared/TRANSLATION.md` lists them; what the caller is told follows from the
class: a fault of the provider or of its operator is a 502 (429 for a limit), the caller's own keeps the provider's status and code.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.errors import ErrorClass


@dataclass(frozen=True)
class Failure:
    """`status` 200 is an error event in a stream that had begun."""

    error_class: ErrorClass
    status: int
    code: str


def _callers(code: str) -> Failure:
    return Failure(ErrorClass.INVALID_REQUEST, 400, code)


_AUTH = Failure(ErrorClass.AUTH, 502, "provider_auth")
_NO_MODEL = Failure(ErrorClass.MODEL_NOT_FOUND, 502, "model_unavailable")
_LIMITED = Failure(ErrorClass.RATE_LIMITED, 429, "rate_limit_exceeded")
_TOO_LONG = Failure(ErrorClass.CONTEXT_LENGTH, 400, "context_length_exceeded")
_NO_ANSWER = Failure(ErrorClass.EMPTY, 502, "upstream_unavailable")

FAILURES: dict[str, Failure] = {
    "azure-openai-chat-1d76e426f7": _NO_MODEL,  # 404 DeploymentNotFound
    "azure-openai-chat-68c15728f9": Failure(ErrorClass.CONTENT_POLICY, 400, "content_policy"),  # an error body under status 200
    "azure-openai-chat-86e53f145d": _LIMITED,
    "deepseek-openai-chat-167f001bfb": _TOO_LONG,  # known by its text only; application/octet-stream
    # `event: error` after content: whatever it says, the answer broke off (before content it would be a model_fault)
    "groq-openai-chat-bffc60e8b7": Failure(ErrorClass.STREAM_INTERRUPTED, 200, "stream_interrupted"),
    "groq-openai-chat-ce8ea521e9": _NO_MODEL,
    "groq-openai-chat-f547678b88": Failure(ErrorClass.MODEL_FAULT, 502, "upstream_unavailable"),  # 400 tool_use_failed
    "mistral-openai-chat-6b05f43e36": _AUTH,  # {"detail": …}
    "ollama-openai-chat-b0c9bb0682": _AUTH,  # type api_error beside 401
    "openai-openai-chat-29b8032b15": _callers("invalid_image_url"),
    "openai-openai-chat-4d15e64f90": _callers("invalid_request"),  # code null
    "openai-openai-chat-4fa7725081": _AUTH,
    "openai-openai-chat-5bc937bba2": _NO_MODEL,
    "openai-openai-chat-60ab881ef7": _AUTH,
    "openai-openai-chat-6bd8520d7f": _NO_MODEL,
    "openai-openai-chat-89f48cd5cb": _AUTH,
    "openai-openai-chat-b22f1a30c9": _callers("missing_required_parameter"),
    "openai-openai-chat-bae749e6c9": _NO_MODEL,
    "openai-openai-chat-c4ccd4ea71": _NO_MODEL,
    "openai-openai-chat-e25543c276": _callers("unsupported_value"),
    "openai-openai-chat-f178c5b578": _callers("invalid_value"),
    "openai-openai-chat-f40224a0f3": _callers("invalid_value"),
    "openai-openai-chat-f5ca63a141": _callers("unsupported_parameter"),
    "openai-openai-chat-fb50fd0ebe": _callers("invalid_function_parameters"),
    "openai-openai-chat-ff9d57e610": _callers("invalid_image_format"),
    "openrouter-openai-chat-3c6b6e429b": _LIMITED,  # code is an int, the cause in metadata.raw
    "openrouter-openai-chat-711003c113": _AUTH,
    "openrouter-openai-chat-7e2fb11485": _TOO_LONG,
    "openrouter-openai-chat-e6e2921fa7": _AUTH,
    "perplexity-openai-chat-70c6364476": _TOO_LONG,  # by its type only
    # filed under chat completions, but no such answers: two of the Responses API, one of an OCR endpoint
    "azure-openai-chat-129de8d5fa": _NO_ANSWER,
    "azure-openai-chat-e2ac38a20c": _NO_ANSWER,
    "mistral-openai-chat-4bab76b7a9": _NO_ANSWER,
}

# Providers whose completion_tokens leave reasoning out, so that it is added.
REASONING_EXCLUDED = frozenset(("xai",))
# The same shows in these by reasoning that is larger than the completion it should be a part of: Gemini behind Vercel's gateway.
REASONING_BEYOND_COMPLETION = frozenset(
    f"vercel-openai-chat-{id_}"
    for id_ in "2693e6ccf3 2f20dc4680 59e8454c40 6ada5cdb23 6d82ee49b8 7161873d11 769291208a b27be3de0b".split()
)

# More cached tokens than prompt tokens: Azure's Grok counts them beside the prompt, Mistral once did. A part is not larger than its
# whole, so the ledger has all of the prompt as cached.
CACHED_BEYOND_PROMPT = frozenset(
    f"azure-openai-chat-{id_}"
    for id_ in (
        "068fa426db 159fa4d89a 1fe104e571 33a8f0a65a 641aaf0c9c 7ac3c89155 7c8c4d275d 7eca8fa25d c6fcd9e925 d7e163618e e138f9c1de"
        " ffcab98638"
    ).split()
) | {"mistral-openai-chat-ad87bddab6"}
