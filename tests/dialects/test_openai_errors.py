"""What an error means: by its status, by its code, by its words, whoever sends it."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.dialects.openai_errors import decode_error, error_from_object

pytestmark = pytest.mark.unit


def decode(status: int, value: object) -> UpstreamError:
    return decode_error(status, value if isinstance(value, bytes) else orjson.dumps(value))


def openai(message: str = "m", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}}


BY_STATUS = {
    301: ErrorClass.REDIRECT,
    302: ErrorClass.REDIRECT,
    307: ErrorClass.REDIRECT,
    400: ErrorClass.INVALID_REQUEST,
    401: ErrorClass.AUTH,
    402: ErrorClass.INSUFFICIENT_QUOTA,
    403: ErrorClass.AUTH,
    404: ErrorClass.MODEL_NOT_FOUND,
    405: ErrorClass.INVALID_REQUEST,
    408: ErrorClass.RETRYABLE_4XX,
    409: ErrorClass.RETRYABLE_4XX,
    410: ErrorClass.INVALID_REQUEST,
    413: ErrorClass.INVALID_REQUEST,
    415: ErrorClass.INVALID_REQUEST,
    418: ErrorClass.INVALID_REQUEST,
    422: ErrorClass.INVALID_REQUEST,
    424: ErrorClass.RETRYABLE_4XX,
    425: ErrorClass.RETRYABLE_4XX,
    429: ErrorClass.RATE_LIMITED,
    498: ErrorClass.OVERLOADED,
    500: ErrorClass.SERVER_ERROR,
    502: ErrorClass.SERVER_ERROR,
    503: ErrorClass.OVERLOADED,
    504: ErrorClass.SERVER_ERROR,
    520: ErrorClass.SERVER_ERROR,
    524: ErrorClass.SERVER_ERROR,
    529: ErrorClass.OVERLOADED,
    599: ErrorClass.SERVER_ERROR,
}


@pytest.mark.parametrize(
    "body", [b"", b"Not Found", b"<html><body>502 Bad Gateway</body></html>", b"null", b"7", b'{"error":{}}', b"{}"]
)
@pytest.mark.parametrize(("status", "expected"), BY_STATUS.items())
def test_a_body_that_says_nothing_leaves_it_to_the_status(status: int, expected: ErrorClass, body: bytes) -> None:
    error = decode_error(status, body)
    assert error.error_class is expected
    assert error.status == status
    assert "<html>" not in error.message


# Each provider's own words, as recorded or documented.
BY_BODY: dict[str, tuple[int, Any, ErrorClass]] = {
    # rate limits
    "OpenAI rate limit": (
        429,
        openai("Rate limit reached", type="requests", code="rate_limit_exceeded"),
        ErrorClass.RATE_LIMITED,
    ),
    "Azure rate limit": (429, {"error": {"code": "RateLimitReached", "message": "m"}}, ErrorClass.RATE_LIMITED),
    "OpenRouter rate limit": (
        429,
        {
            "error": {
                "message": "Provider returned error",
                "code": 429,
                "metadata": {"raw": "is temporarily rate-limited upstream"},
            }
        },
        ErrorClass.RATE_LIMITED,
    ),
    "Gemini rate limit": (
        429,
        [{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}],
        ErrorClass.RATE_LIMITED,
    ),
    "throttled by tokens": (429, openai("Too many tokens, please wait before trying again."), ErrorClass.RATE_LIMITED),
    "a 429 that calls itself an API error": (429, openai(type="api_error"), ErrorClass.RATE_LIMITED),
    # quota
    "OpenAI quota": (429, openai("You exceeded your current quota", code="insufficient_quota"), ErrorClass.INSUFFICIENT_QUOTA),
    "quota by its text alone": (429, openai("You exceeded your current quota, please check"), ErrorClass.INSUFFICIENT_QUOTA),
    "DeepSeek balance": (402, openai("Insufficient Balance"), ErrorClass.INSUFFICIENT_QUOTA),
    "Anthropic credit": (400, openai("Your credit balance is too low to access the API"), ErrorClass.INSUFFICIENT_QUOTA),
    "OpenRouter credit": (
        402,
        {"error": {"code": 402, "message": "This request requires more credits"}},
        ErrorClass.INSUFFICIENT_QUOTA,
    ),
    # overload
    "OpenAI overload": (503, openai("The engine is currently overloaded", type="server_error"), ErrorClass.SERVER_ERROR),
    "Anthropic overload": (529, {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, ErrorClass.OVERLOADED),
    "Moonshot overload": (429, openai(type="engine_overloaded_error"), ErrorClass.OVERLOADED),
    # keys
    "OpenAI key": (401, openai("Incorrect API key provided: sk-fake", code="invalid_api_key"), ErrorClass.AUTH),
    "xAI key, a 400 with a string": (
        400,
        {"code": "invalid-argument", "error": "Incorrect API key provided: xa***"},
        ErrorClass.AUTH,
    ),
    "Gemini key, a 400": (
        400,
        {"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}},
        ErrorClass.AUTH,
    ),
    "Gemini key by its text": (400, [{"error": {"code": 400, "message": "API key not valid. Please pass"}}], ErrorClass.AUTH),
    "Mistral key": (401, {"detail": "Invalid API Key"}, ErrorClass.AUTH),
    "Ollama key": (401, openai("Unauthorized", type="api_error"), ErrorClass.AUTH),
    "Azure key": (401, {"error": {"code": "401", "message": "Access denied"}}, ErrorClass.AUTH),
    # models
    "OpenAI model": (404, openai("The model `x` does not exist", code="model_not_found"), ErrorClass.MODEL_NOT_FOUND),
    "OpenAI model, a 400": (400, openai("m", code="model_not_found"), ErrorClass.MODEL_NOT_FOUND),
    "DeepSeek model, a 400": (400, openai("Model Not Exist"), ErrorClass.MODEL_NOT_FOUND),
    "OpenRouter model, a 400": (
        400,
        {"error": {"code": 400, "message": "a/b is not a valid model ID"}},
        ErrorClass.MODEL_NOT_FOUND,
    ),
    "Ollama model": (404, openai('model "x" not found, try pulling it first'), ErrorClass.MODEL_NOT_FOUND),
    "a quoted model, a 400": (
        400,
        openai("The model 'x/y' does not exist or you do not have access"),
        ErrorClass.MODEL_NOT_FOUND,
    ),
    "Azure deployment": (404, {"error": {"code": "DeploymentNotFound", "message": "m"}}, ErrorClass.MODEL_NOT_FOUND),
    # context
    "OpenAI context": (400, openai(code="context_length_exceeded"), ErrorClass.CONTEXT_LENGTH),
    "DeepSeek context": (400, openai("This model's maximum context length is 1048565 tokens."), ErrorClass.CONTEXT_LENGTH),
    "OpenRouter context": (
        400,
        {"error": {"code": 400, "message": "This endpoint's maximum context length is"}},
        ErrorClass.CONTEXT_LENGTH,
    ),
    "Anthropic context": (400, openai("prompt is too long: 9 tokens > 8 maximum"), ErrorClass.CONTEXT_LENGTH),
    "Gemini context": (400, openai("The input token count (9) exceeds the maximum"), ErrorClass.CONTEXT_LENGTH),
    "Cohere context": (400, {"message": "too many tokens", "error_type": "TOO_MANY_TOKENS"}, ErrorClass.CONTEXT_LENGTH),
    "Perplexity context": (
        400,
        {"error": {"message": "m", "type": "too_many_prompt_tokens", "code": 400}},
        ErrorClass.CONTEXT_LENGTH,
    ),
    "Moonshot context": (400, openai("Your request exceeded model token limit: 8192"), ErrorClass.CONTEXT_LENGTH),
    "Z.ai context": (400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}, ErrorClass.CONTEXT_LENGTH),
    "DashScope context": (
        400,
        openai("Range of input length should be [1, 30720]", code="invalid_parameter_error"),
        ErrorClass.CONTEXT_LENGTH,
    ),
    "llama.cpp context": (
        400,
        {"error": {"code": 400, "message": "the request is too large", "type": "exceed_context_size_error"}},
        ErrorClass.CONTEXT_LENGTH,
    ),
    "text-generation-inference context": (
        422,
        openai("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097."),
        ErrorClass.CONTEXT_LENGTH,
    ),
    # policy
    "Azure filter": (
        400,
        {"error": {"code": "content_filter", "message": "m", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        ErrorClass.CONTENT_POLICY,
    ),
    "Azure filter by its text": (400, openai("triggering Azure OpenAI's content management policy"), ErrorClass.CONTENT_POLICY),
    "OpenRouter moderation, a 403": (
        403,
        {"error": {"code": 403, "message": "Your input was flagged"}},
        ErrorClass.CONTENT_POLICY,
    ),
    "DashScope inspection": (400, openai(code="data_inspection_failed"), ErrorClass.CONTENT_POLICY),
    # the model's own fault
    "Groq tool use": (400, openai(code="tool_use_failed"), ErrorClass.MODEL_FAULT),
    # the caller's
    "a plain 400": (
        400,
        openai("Missing required parameter: 'x'", param="x", code="missing_required_parameter"),
        ErrorClass.INVALID_REQUEST,
    ),
    "Mistral validation": (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, ErrorClass.INVALID_REQUEST),
    # the provider's
    "a 500 with an invalid request": (500, openai("m"), ErrorClass.SERVER_ERROR),
    "an api_error": (500, openai("m", type="api_error"), ErrorClass.SERVER_ERROR),
    "a model that cannot chat": (
        404,
        {"error": {"message": "This is not a chat model and thus not supported in the v1/chat/completions endpoint."}},
        ErrorClass.INVALID_REQUEST,
    ),
}


@pytest.mark.parametrize(("status", "body", "expected"), BY_BODY.values(), ids=BY_BODY.keys())
def test_what_providers_say(status: int, body: Any, expected: ErrorClass) -> None:
    assert decode(status, body).error_class is expected


# What a caller wrote comes back in a provider's message. It must not be able to take a key or a model from everybody else.
ECHOES = [
    "Invalid value: 'invalid api key'. Supported values are: 'system', 'user'.",
    "Invalid value: insufficient credits",
    'Unsupported role "model x does not exist"',
    "Unknown tool `no such model`",
    "This model does not support the role 'not found'.",
    "messages[0].role: no valid api key",
    "Invalid schema for function 'model_x not found'",
]


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("message", ECHOES)
def test_a_callers_words_in_a_message_set_no_key_or_model_aside(message: str, status: int) -> None:
    found = decode(status, openai(message)).error_class
    assert found is (ErrorClass.SERVER_ERROR if status == 500 else ErrorClass.INVALID_REQUEST)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (openai("plain"), "plain"),
        ({"error": "a string"}, "a string"),
        ({"detail": "a detail"}, "a detail"),
        ({"message": "flat"}, "flat"),
        ({"detail": [{"msg": "one"}, {"msg": "two"}, "three"]}, "one; two; three"),
        ({"detail": {"message": "inner"}}, "inner"),
        ([{"error": {"message": "in a list"}}], "in a list"),
        ({"error": {"message": "outer", "metadata": {"raw": "the cause"}}}, "outer: the cause"),
        ({"error": {"code": 500}}, "no message"),
        ({"error": {"message": 7}}, "no message"),
        ([], "no message"),
        ({"error": []}, "no message"),
    ],
)
def test_where_the_message_stands(body: Any, message: str) -> None:
    assert decode(500, body).message == message


def test_code_and_param_are_the_providers_when_they_are_texts() -> None:
    error = decode(400, openai("m", code="unsupported_value", param="messages[0].role"))
    assert (error.code, error.param) == ("unsupported_value", "messages[0].role")
    error = decode(400, {"error": {"message": "m", "code": 400, "param": ["x"]}})
    assert (error.code, error.param) == (None, None)


def test_googles_wait_is_in_the_body() -> None:
    details = [{"@type": "x"}, 7, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "48s"}]
    body = {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED", "details": details}}
    assert decode(429, body).body_delay == "48s"
    assert decode(429, openai()).body_delay is None


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        ({"error": {"message": "m", "code": 429}}, 429, ErrorClass.RATE_LIMITED),
        ({"error": {"message": "m", "code": "503"}}, 503, ErrorClass.OVERLOADED),
        ({"error": {"message": "m", "status_code": 400}}, 400, ErrorClass.INVALID_REQUEST),
        ({"error": {"message": "m", "type": "invalid_request_error"}}, 400, ErrorClass.INVALID_REQUEST),
        ({"error": {"message": "m", "type": "server_error"}}, None, ErrorClass.SERVER_ERROR),
        ({"error": {"message": "m", "code": 7}}, None, ErrorClass.SERVER_ERROR),
        ({"error": {"message": "m", "code": 200}}, None, ErrorClass.SERVER_ERROR),
        ({"error": "text"}, None, ErrorClass.SERVER_ERROR),
    ],
)
def test_an_error_inside_a_200_must_tell_by_itself_what_it_is(body: Any, status: int | None, expected: ErrorClass) -> None:
    for outer in (None, 200):
        error = error_from_object(body, status=outer)
        assert (error.status, error.error_class) == (status, expected)


def test_a_megabyte_of_message_costs_no_time_worth_mentioning() -> None:
    assert decode(400, openai("model " * 200_000)).error_class is ErrorClass.INVALID_REQUEST


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 600) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "code", "type", "status", "details", "metadata", "innererror"]), inner
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.integers(300, 599), JSON)
def test_any_json_is_some_error_and_never_a_fault(status: int, value: object) -> None:
    error = decode(status, value)
    assert isinstance(error.message, str)
    assert error_from_object(value, status=None).error_class in ErrorClass
