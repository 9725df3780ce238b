"""Chat templates, which describe prompts and responses as slots, and the table of them.

The table is ModelLink's (branches 1.0.0 and 2.0.0), which differs from newer LLaMA-Factory in
trailing newlines and default systems. `modellink_rm.templates.encode` turns slots into token ids.
"""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass

from modellink_rm.base.registry import Registry
from modellink_rm.templates.calls import call_texts
from modellink_rm.templates.tools import system_texts

CONTENT = "{content}"  # the text of a message, or of the system
ROUND = "{idx}"  # number of the user's turn, from 0


@dataclass(frozen=True, slots=True)
class Token:
    """A slot that is one special token, by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Bos:
    """A slot that is the tokenizer's BOS, or nothing if it has none."""


@dataclass(frozen=True, slots=True)
class Eos:
    """A slot that is the EOS: the tokenizer's, or the first stop word if the template replaces it."""


# A str is text around a message, tokenised on its own: tokens never merge across slots.
Slot = str | Token | Bos | Eos
BOS = Bos()
EOS = Eos()
_ADDED_LATER = (
    *("tool_format", "tools_slots", "thinking", "chat_template", "call_format", "system_rule"),
    "reward_token",
)
SYSTEM_RULES = ("", "last_user", "refused")


@dataclass(frozen=True, kw_only=True)
class Template:
    """How the turns of a conversation are written for one family of models.

    Attributes:
        name: the first of its names for --prompt-type.
        user: a user's turn with the opener of the answer.
        assistant: an answer, earlier or final.
        system: system text with the description of tools.
        observation: an observation with the opener of the answer; None for the slots of `user`.
        prefix: written once, before everything.
        separator: written before every user's turn except the first.
        default_system: the system text of a record that has none.
        stop_words: tokens that end an answer.
        efficient_eos: EOS is written once, after the final answer.
        replace_eos: EOS is the first stop word instead of the tokenizer's.
        system_in_user: system text is a part of the first user's message.
        system_rule: "last_user": system text is a part of the last user's message; "refused": a record with
            system text is refused; "": neither.
        strip_thoughts: <think>...</think> is removed from earlier answers.
        tool_format: how tools are described in the system text, a name of `tools.SYSTEM_FORMATS`; "" if they
            are not: then a record with tools is refused unless there are `tools_slots`.
        tools_slots: written before the last user's turn of a record with tools, around their JSON.
        call_format: how tool calls are written, a name of `calls.CALL_FORMATS`; "" writes them unchanged.
        thinking: True writes an empty thought before an answer without one; False removes thoughts from
            answers and ends the prompt with an empty one; None leaves answers unchanged.
        chat_template: a Jinja template that replaces all slots, "" for none.
        reward_token: a token after everything of the final answer, where the score is read; "" for none.
    """

    name: str
    user: tuple[Slot, ...]
    assistant: tuple[Slot, ...] = (CONTENT, EOS)
    system: tuple[Slot, ...] = (CONTENT,)
    observation: tuple[Slot, ...] | None = None
    prefix: tuple[Slot, ...] = ()
    separator: tuple[Slot, ...] = ()
    default_system: str = ""
    stop_words: tuple[str, ...] = ()
    efficient_eos: bool = False
    replace_eos: bool = False
    system_in_user: bool = False
    strip_thoughts: bool = False
    tool_format: str = ""
    tools_slots: tuple[Slot, ...] = ()
    thinking: bool | None = None
    chat_template: str = ""
    call_format: str = ""
    system_rule: str = ""
    reward_token: str = ""

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256, in hex, of everything but the name."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del content["name"]
        for name in _ADDED_LATER:
            if not content[name] and content[name] is not False:
                del content[name]  # so that templates without the field keep their fingerprint
        if self.tool_format:
            content["tool_format"] = system_texts(self.tool_format, '[{"name": "f"}]', "s")
        if self.call_format:
            content["call_format"] = call_texts(self.call_format, '{"name": "f", "arguments": {"x": ""}}')
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()

    @property
    def eos_rule(self) -> str:
        """Which token ends an answer and where, as an inference contract states it."""
        if self.reward_token:
            return f"{dataclasses.replace(self, reward_token='').eos_rule}, then {self.reward_token}"
        if self.chat_template:
            return "the chat template ends every answer"
        eos = self.stop_words[0] if self.replace_eos else "the tokenizer's EOS"
        if self.efficient_eos:
            return f"{eos} after the final answer"
        if EOS in self.assistant:
            return f"{eos} after every answer"
        return "no EOS" if self.assistant == (CONTENT,) else "the text of the template ends every answer"


TEMPLATES: Registry[Template] = Registry(
    "--prompt-type",
    entry_points="modellink_rm.templates",
    accepts=lambda entry: isinstance(entry, Template),
    expected="a Template",
)


def _add(template: Template, *aliases: str) -> None:
    TEMPLATES.add(template, template.name, *aliases)


_add(
    Template(
        name="default",
        system=("{content}\n",),
        user=("Human: {content}\nAssistant:",),
        separator=("\n",),
    )
)
_add(Template(name="empty", user=(CONTENT,), assistant=(CONTENT,)))
_add(
    Template(
        name="chatglm2",
        prefix=(Token("[gMASK]"), Token("sop")),
        user=("[Round {idx}]\n\n问：{content}\n\n答：",),
        assistant=(CONTENT,),
        separator=("\n\n",),
        efficient_eos=True,
    )
)

_CHATGLM3 = Template(
    name="chatglm3",
    prefix=(Token("[gMASK]"), Token("sop")),
    system=(Token("<|system|>"), "\n", CONTENT),
    user=(Token("<|user|>"), "\n", CONTENT, Token("<|assistant|>")),
    observation=(Token("<|observation|>"), "\n", CONTENT, Token("<|assistant|>")),
    assistant=("\n", CONTENT),
    stop_words=("<|user|>", "<|observation|>"),
    efficient_eos=True,
    tool_format="chatglm3",
    call_format="chatglm3",
)
_add(_CHATGLM3)
_add(
    dataclasses.replace(
        _CHATGLM3,
        name="chatglm3_system",
        prefix=(),
        system=(*_CHATGLM3.prefix, *_CHATGLM3.system),
        default_system="You are ChatGLM3, a large language model trained by Zhipu.AI. "
        "Follow the user's instructions carefully. Respond using markdown.",
    )
)
_add(
    Template(
        name="glm4",
        prefix=("[gMASK]<sop>",),
        system=("<|system|>\n{content}",),
        user=("<|user|>\n{content}<|assistant|>",),
        observation=("<|observation|>\n{content}<|assistant|>",),
        assistant=("\n{content}",),
        stop_words=("<|user|>", "<|observation|>"),
        efficient_eos=True,
        tool_format="glm4",
        call_format="glm4",
    )
)

_CHATML = Template(
    name="chatml",
    system=("<|im_start|>system\n{content}<|im_end|>\n",),
    user=("<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",),
    observation=("<|im_start|>tool\n{content}<|im_end|>\n<|im_start|>assistant\n",),
    separator=("\n",),
    stop_words=("<|im_end|>", "<|im_start|>"),
    replace_eos=True,
)
_add(_CHATML)
# Qwen/Qwen2.5-7B-Instruct and Qwen/Qwen3-8B, chat_template.
_QWEN_OBSERVATION = (
    "<|im_start|>user\n<tool_response>\n{content}\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
)
_add(
    dataclasses.replace(
        _CHATML,
        name="chatml_de",
        default_system="Du bist ein freundlicher und hilfsbereiter KI-Assistent.",
    )
)
_add(
    dataclasses.replace(
        _CHATML,
        name="qwen",
        default_system="You are a helpful assistant.",
        stop_words=("<|im_end|>",),
        observation=_QWEN_OBSERVATION,
        tool_format="qwen",
        call_format="qwen",
    )
)
_QWEN3 = Template(
    name="qwen3",
    system=_CHATML.system,
    user=_CHATML.user,
    observation=_QWEN_OBSERVATION,
    assistant=("{content}<|im_end|>\n",),
    stop_words=("<|im_end|>",),
    replace_eos=True,
    strip_thoughts=True,
    tool_format="qwen",
    call_format="qwen",
)
_add(_QWEN3)
# qwen3 with --enable-thinking true and false; with names, so that data and checkpoints can name them.
_add(dataclasses.replace(_QWEN3, name="qwen3_thinking", thinking=True))
_add(dataclasses.replace(_QWEN3, name="qwen3_no_thinking", thinking=False))
_add(
    Template(
        name="intern2",
        prefix=(BOS,),
        system=_CHATML.system,
        user=_CHATML.user,
        assistant=("{content}<|im_end|>\n",),
        stop_words=("<|im_end|>",),
    ),
    "internlm2",
)
_add(
    Template(
        name="llama3",
        prefix=(BOS,),
        system=("<|start_header_id|>system<|end_header_id|>\n\n{content}<|eot_id|>",),
        user=(
            "<|start_header_id|>user<|end_header_id|>\n\n{content}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        # meta-llama/llama-models, models/llama3_1/prompt_format.md
        observation=(
            "<|start_header_id|>ipython<|end_header_id|>\n\n{content}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        stop_words=("<|eot_id|>",),
        replace_eos=True,
        tool_format="llama3",
        call_format="llama3",
    )
)
_add(
    Template(
        name="llama2",
        system=("<<SYS>>\n{content}\n<</SYS>>\n\n",),
        user=(BOS, "[INST] {content} [/INST]"),
        system_in_user=True,
    )
)
# ModelLink's mistral and gemma write system text directly after BOS, unlike the publishers; existing data
# needs them unchanged. Users who ask for them by name are told about the published forms.
PUBLISHED_FORMS = {
    "mistral": "mistral_v1 or mistral_v3",
    "mixtral": "mistral_v1 or mistral_v3",
    "gemma": "gemma2 or gemma3",
}
_add(
    Template(
        name="mistral",
        prefix=(BOS,),
        user=("[INST] {content} [/INST]",),
        # mistral-common, instruct tokenizer v3: before the last user's turn.
        tools_slots=(Token("[AVAILABLE_TOOLS]"), CONTENT, Token("[/AVAILABLE_TOOLS]")),
    ),
    "mixtral",
)
# What mistral-common writes (tokens/tokenizers/instruct.py), by versions of its instruct tokenizer.
_add(
    Template(
        name="mistral_v1",
        prefix=(BOS,),
        system=("{content}\n\n",),
        user=("[INST] {content} [/INST]",),
        system_in_user=True,
    )
)
_add(
    Template(
        name="mistral_v3",
        prefix=(BOS,),
        system=("{content}\n\n",),
        user=(Token("[INST]"), CONTENT, Token("[/INST]")),
        system_rule="last_user",
        tools_slots=(Token("[AVAILABLE_TOOLS]"), CONTENT, Token("[/AVAILABLE_TOOLS]")),
    )
)
_add(
    Template(
        name="gemma",
        prefix=(BOS,),
        user=("<start_of_turn>user\n{content}<end_of_turn>\n<start_of_turn>model\n",),
        observation=("<start_of_turn>tool\n{content}<end_of_turn>\n<start_of_turn>model\n",),
        assistant=(CONTENT,),
        separator=("<end_of_turn>\n",),
        efficient_eos=True,
    )
)
# google/gemma-2-9b-it and google/gemma-3-4b-it, chat_template.
_GEMMA2 = Template(
    name="gemma2",
    prefix=(BOS,),
    user=("<start_of_turn>user\n{content}<end_of_turn>\n<start_of_turn>model\n",),
    assistant=("{content}<end_of_turn>\n",),
    stop_words=("<end_of_turn>",),
    system_rule="refused",
)
_add(_GEMMA2)
_add(
    dataclasses.replace(
        _GEMMA2, name="gemma3", system=("{content}\n\n",), system_in_user=True, system_rule=""
    )
)
_add(
    Template(
        name="alpaca",
        user=("### Instruction:\n{content}\n\n### Response:\n",),
        separator=("\n\n",),
        default_system="Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n",
    )
)
_add(
    Template(
        name="deepseek2",
        prefix=(BOS,),
        system=("{content}\n\n",),
        user=("User: {content}\n\nAssistant:",),
    ),
    "deepseek2-lite",
)
_add(Template(name="deepseek3", prefix=(BOS,), user=("<｜User｜>{content}<｜Assistant｜>",)))
_add(Template(name="cpm", prefix=(BOS,), user=("<用户>{content}<AI>",)))
_add(
    Template(
        name="baichuan2",
        user=("<reserved_106>{content}<reserved_107>",),
        assistant=(CONTENT,),
        efficient_eos=True,
    )
)
