"""What Bedrock's errors mean: by their kind, by their text where the kind says too little, by their status where there is neither."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ErrorClass
from proxy.dialects.bedrock.dialect import BedrockConverse
from tests.dialects.bedrock_judge import shape_of

pytestmark = pytest.mark.unit

DIALECT = BedrockConverse()


def decoded(status: int, said: Any, kind: str | None = None) -> tuple[ErrorClass, str, int | None]:
    headers = [(b"content-type", b"application/json")]
    if kind is not None:
        headers.append((b"x-amzn-errortype", kind.encode()))
    body = said if isinstance(said, bytes) else orjson.dumps(said)
    found = DIALECT.decode_error(status, headers, body)
    return found.error_class, found.message, found.status


KINDS: list[tuple[int, str, ErrorClass]] = [
    (429, "ThrottlingException", ErrorClass.RATE_LIMITED),
    (400, "ServiceQuotaExceededException", ErrorClass.RATE_LIMITED),
    (429, "ModelNotReadyException", ErrorClass.OVERLOADED),
    (408, "ModelTimeoutException", ErrorClass.RETRYABLE_4XX),
    (424, "ModelErrorException", ErrorClass.RETRYABLE_4XX),
    (424, "ModelStreamErrorException", ErrorClass.SERVER_ERROR),
    (403, "AccessDeniedException", ErrorClass.AUTH),
    (403, "UnrecognizedClientException", ErrorClass.AUTH),
    (403, "ExpiredTokenException", ErrorClass.AUTH),
    (403, "InvalidSignatureException", ErrorClass.AUTH),
    (403, "MissingAuthenticationTokenException", ErrorClass.AUTH),
    (400, "ValidationException", ErrorClass.INVALID_REQUEST),
    (400, "SerializationException", ErrorClass.INVALID_REQUEST),
    (404, "ResourceNotFoundException", ErrorClass.MODEL_NOT_FOUND),
    (404, "UnknownOperationException", ErrorClass.MODEL_NOT_FOUND),
    (413, "RequestEntityTooLargeException", ErrorClass.CONTEXT_LENGTH),
    (503, "ServiceUnavailableException", ErrorClass.OVERLOADED),
    (500, "InternalServerException", ErrorClass.SERVER_ERROR),
]


@pytest.mark.parametrize(("status", "kind", "error_class"), KINDS)
def test_the_kind_says_what_happened(status: int, kind: str, error_class: ErrorClass) -> None:
    said = {"message": "That went wrong."}
    expected = (error_class, "That went wrong.", status)
    assert decoded(status, said, f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/") == expected
    assert decoded(status, said, kind) == expected
    assert decoded(status, {"__type": f"com.amazon.bedrock#{kind}", **said}) == expected
    assert decoded(status, {"__type": kind, "Message": "That went wrong."}) == expected


def test_every_error_of_awss_own_model_is_in_the_table() -> None:
    if shape_of(False) is None:
        pytest.skip("botocore is not installed: it knows AWS's own model of the API")
    import botocore.loaders

    model = botocore.loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    table = {kind: (status, error_class) for status, kind, error_class in KINDS}
    for operation in ("Converse", "ConverseStream"):
        for error in model["operations"][operation]["errors"]:
            assert table[error["shape"]][0] == model["shapes"][error["shape"]]["error"]["httpStatusCode"]


TEXTS: list[tuple[int, str | None, str, ErrorClass]] = [
    (400, "ValidationException", "Input is too long for requested model.", ErrorClass.CONTEXT_LENGTH),
    (
        400,
        "ValidationException",
        "The model returned the following errors: Input is too long for requested model.",
        ErrorClass.CONTEXT_LENGTH,
    ),
    (400, "ValidationException", "prompt is too long: 210000 tokens > 200000 maximum", ErrorClass.CONTEXT_LENGTH),
    (
        400,
        "ValidationException",
        "The model returned the following errors: input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        ErrorClass.CONTEXT_LENGTH,
    ),
    (
        400,
        "ValidationException",
        "Input Tokens Exceeded: Number of input tokens exceeds maximum length. Please update the input to try again.",
        ErrorClass.CONTEXT_LENGTH,
    ),
    (
        400,
        "ValidationException",
        "Too many input tokens. Max input tokens: 8192, request input token count: 21201 ",
        ErrorClass.CONTEXT_LENGTH,
    ),
    (
        400,
        "ValidationException",
        "This model's maximum context length is 8192 tokens. Please reduce the length of the prompt",
        ErrorClass.CONTEXT_LENGTH,
    ),
    (400, "ValidationException", "The provided model identifier is invalid.", ErrorClass.MODEL_NOT_FOUND),
    (400, None, "The provided model identifier is invalid.", ErrorClass.MODEL_NOT_FOUND),
    (
        400,
        "ValidationException",
        (
            "Invocation of model ID amazon.nova-pro-v1:0 with on-demand throughput isn’t supported. Retry your request with the ID or "
            "ARN of an inference profile that contains this model."
        ),
        ErrorClass.MODEL_NOT_FOUND,
    ),
    (
        400,
        "ValidationException",
        "This action doesn't support the model that you provided. Try again with a supported text or chat model.",
        ErrorClass.MODEL_NOT_FOUND,
    ),
    (403, "AccessDeniedException", "You don't have access to the model with the specified model ID.", ErrorClass.MODEL_NOT_FOUND),
    (403, None, "You don't have access to the model with the specified model ID.", ErrorClass.MODEL_NOT_FOUND),
    (
        403,
        "AccessDeniedException",
        (
            "User: arn:aws:iam::123456789012:user/robot is not authorized to perform: bedrock:InvokeModel on resource: arn:aws:bedrock:"
            "us-east-1::foundation-model/amazon.nova-pro-v1:0 because no identity-based policy allows the bedrock:InvokeModel action"
        ),
        ErrorClass.MODEL_NOT_FOUND,
    ),
    (
        403,
        "AccessDeniedException",
        "You invoked an unsupported model or your request did not allow prompt caching. See the documentation for more information.",
        ErrorClass.INVALID_REQUEST,
    ),
    (403, "AccessDeniedException", "Authentication failed: Please make sure your API Key is valid.", ErrorClass.AUTH),
    (403, "UnrecognizedClientException", "The security token included in the request is invalid.", ErrorClass.AUTH),
    (400, "ValidationException", "Output blocked by content filtering policy", ErrorClass.CONTENT_POLICY),
    # what a caller wrote may say anything, as long as the provider said something before it
    (
        400,
        "ValidationException",
        "Malformed input request: #/messages/0/content/0: 'The provided model identifier is invalid.' is not permitted",
        ErrorClass.INVALID_REQUEST,
    ),
    # a limit is a limit, whatever it is of
    (429, "ThrottlingException", "Too many tokens per day, please wait before trying again.", ErrorClass.RATE_LIMITED),
]


@pytest.mark.parametrize(("status", "kind", "message", "error_class"), TEXTS)
def test_the_text_says_what_was_meant(status: int, kind: str | None, message: str, error_class: ErrorClass) -> None:
    assert decoded(status, {"message": message}, kind) == (error_class, message, status)


BODIES: list[tuple[int, str | None, Any, ErrorClass]] = [
    (503, None, b"<html>Service Unavailable</html>", ErrorClass.OVERLOADED),
    (502, None, b"", ErrorClass.SERVER_ERROR),
    (403, None, b"Forbidden", ErrorClass.AUTH),
    (404, None, {}, ErrorClass.MODEL_NOT_FOUND),
    (429, None, {"message": "Slow down."}, ErrorClass.RATE_LIMITED),
    (429, "SomethingNewException", {"message": "Slow down."}, ErrorClass.RATE_LIMITED),
    (400, None, {"message": "Bad."}, ErrorClass.INVALID_REQUEST),
    (400, None, {"message": None}, ErrorClass.INVALID_REQUEST),
    (400, None, [], ErrorClass.INVALID_REQUEST),
    (429, "ThrottlingException", b"", ErrorClass.RATE_LIMITED),
    (307, None, b"", ErrorClass.REDIRECT),
]


@pytest.mark.parametrize(("status", "kind", "said", "error_class"), BODIES)
def test_where_little_is_said_the_status_tells(status: int, kind: str | None, said: Any, error_class: ErrorClass) -> None:
    assert decoded(status, said, kind)[0] is error_class


@pytest.mark.property
@given(st.integers(300, 599), st.binary(max_size=60), st.text(max_size=20))
def test_anything_can_be_read(status: int, body: bytes, kind: str) -> None:
    DIALECT.decode_error(status, [(b"x-amzn-errortype", kind.encode())], body)
