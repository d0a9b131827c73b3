"""Chat templates of ollama (Go templates) for those that GGUF files contain (Jinja).

Older versions of ollama cannot use the Jinja template of a GGUF file, so a registry has to send one, as the Hub does.
Only families are here whose format is the same in all of their models; the others get none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Go template and the tokens that end an answer.

    Its family is known by special tokens: all of `tokens` are in the Jinja template, and none of `others`.
    """

    tokens: tuple[str, ...]
    text: str
    stop: tuple[str, ...]
    others: tuple[str, ...] = ()


# Llama 2 comes before Mistral, which has all of its tokens but one.
_FAMILIES = (
    # ChatML, for example Qwen.
    ChatTemplate(
        ("<|im_start|>", "<|im_end|>"),
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
        "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n",
        ("<|im_start|>", "<|im_end|>"),
        others=("<|im_sep|>",),
    ),
    # Llama 3.
    ChatTemplate(
        ("<|start_header_id|>", "<|eot_id|>"),
        "{{ if .System }}<|start_header_id|>system<|end_header_id|>\n\n{{ .System }}<|eot_id|>{{ end }}"
        "{{ if .Prompt }}<|start_header_id|>user<|end_header_id|>\n\n{{ .Prompt }}<|eot_id|>{{ end }}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n{{ .Response }}<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    # Gemma has no system message: its text starts the first message of the user.
    ChatTemplate(
        ("<start_of_turn>", "<end_of_turn>"),
        "<start_of_turn>user\n{{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}<end_of_turn>\n"
        "<start_of_turn>model\n{{ .Response }}<end_of_turn>\n",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    # Llama 2.
    ChatTemplate(
        ("[INST]", "[/INST]", "<<SYS>>"),
        "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST] {{ .Response }}</s>",
        ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    ),
    # Mistral before its Small 3.
    ChatTemplate(
        ("[INST]", "[/INST]"),
        "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}[/INST] {{ .Response }}</s>",
        ("[INST]", "[/INST]"),
        others=("[SYSTEM_PROMPT]",),
    ),
)


def go_template(chat_template: str) -> ChatTemplate | None:
    """Return ollama's template for a Jinja template; None for a family that is not known."""
    for family in _FAMILIES:
        has_all = all(token in chat_template for token in family.tokens)
        if has_all and not any(token in chat_template for token in family.others):
            return family
    return None
