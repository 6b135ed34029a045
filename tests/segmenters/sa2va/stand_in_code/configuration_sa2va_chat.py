"""The stand-in's configuration."""

from typing import Any

from transformers import PretrainedConfig, Qwen2Config

print("configuration imported")  # noqa: T201


class Sa2VAChatConfig(PretrainedConfig):
    """As much of a Sa2VA configuration as the stand-in needs."""

    model_type = "sa2va_chat"

    def __init__(
        self, llm_config: dict[str, Any] | None = None, template: str = "chat", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.llm_config = Qwen2Config(**(llm_config or {}))
        self.template = template
        self.tie_word_embeddings = False
        print("configured:", self.architectures)  # noqa: T201
