"""The wire formats by name. Each is loaded when a provider is there that speaks it: all of them are a tenth of what a start takes, and most
proxies need one or two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from proxy.accounting.usage import usage_from_openai
from proxy.dialects.base import OutboundDialect
from proxy.dialects.openai_chat import AzureChat, OpenAIChat
from proxy.dialects.openai_embeddings import AzureEmbeddings, OpenAIEmbeddings
from proxy.dialects.static import StaticChat


class Formats(dict[str, OutboundDialect]):
    """By a dialect's name, made when first asked for. Raises KeyError for a name that is in no table."""

    def __init__(self, makers: Mapping[str, Callable[[], OutboundDialect]]) -> None:
        super().__init__()
        self._makers = makers

    def __missing__(self, name: str) -> OutboundDialect:
        made = self[name] = self._makers[name]()
        return made


def chats() -> Formats:
    return Formats(_CHATS)


def embedders() -> Formats:
    """What speaks a dialect's embeddings; a dialect without has none."""
    return Formats(_EMBEDDERS)


def load_formats(names: Iterable[str]) -> None:
    """Before a request needs them, and where nobody waits: before workers are forked, in the thread that reads a configuration."""
    for name in names:
        for makers in (_CHATS, _EMBEDDERS):
            if name in makers:
                makers[name]()


def _anthropic() -> OutboundDialect:
    # a format of its own
    from proxy.dialects.anthropic.dialect import AnthropicMessages

    return AnthropicMessages()


def _gemini() -> OutboundDialect:
    # a format of its own
    from proxy.dialects.gemini.dialect import Gemini

    return Gemini()


def _gemini_embeddings() -> OutboundDialect:
    # a format of its own
    from proxy.dialects.native_embeddings import GeminiEmbeddings

    return GeminiEmbeddings(_gemini())


def _vertex() -> OutboundDialect:
    # two formats, Google's and Anthropic's
    from proxy.dialects.vertex import Vertex

    return Vertex()


def _vertex_embeddings() -> OutboundDialect:
    # a format of its own
    from proxy.dialects.native_embeddings import VertexEmbeddings

    return VertexEmbeddings(_vertex())


def _cohere() -> OutboundDialect:
    # a format of its own
    from proxy.dialects.cohere.dialect import CohereChat

    return CohereChat()


def _cohere_embeddings() -> OutboundDialect:
    # a format of its own
    from proxy.dialects.native_embeddings import CohereEmbeddings

    return CohereEmbeddings(_cohere())


def _ollama() -> OutboundDialect:
    # a format of its own
    from proxy.dialects.ollama.dialect import OllamaChat

    return OllamaChat()


def _ollama_embeddings() -> OutboundDialect:
    # a format of its own
    from proxy.dialects.native_embeddings import OllamaEmbeddings

    return OllamaEmbeddings(_ollama())


def _bedrock() -> OutboundDialect:
    # a format of its own
    from proxy.dialects.bedrock.dialect import BedrockConverse

    return BedrockConverse()


def _bedrock_embeddings() -> OutboundDialect:
    # a format of its own
    from proxy.dialects.bedrock.embeddings import BedrockEmbeddings

    return BedrockEmbeddings(_bedrock())


_CHATS: dict[str, Callable[[], OutboundDialect]] = {
    "openai": lambda: OpenAIChat(usage_from_openai),
    "azure": lambda: AzureChat(usage_from_openai),
    "anthropic": _anthropic,
    "gemini": _gemini,
    "vertex": _vertex,
    "cohere": _cohere,
    "ollama": _ollama,
    "bedrock": _bedrock,
    "static": lambda: StaticChat(usage_from_openai),
}
_EMBEDDERS: dict[str, Callable[[], OutboundDialect]] = {
    "openai": lambda: OpenAIEmbeddings(usage_from_openai),
    "azure": lambda: AzureEmbeddings(usage_from_openai),
    "gemini": _gemini_embeddings,
    "vertex": _vertex_embeddings,
    "cohere": _cohere_embeddings,
    "ollama": _ollama_embeddings,
    "bedrock": _bedrock_embeddings,
}
