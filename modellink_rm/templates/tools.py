"""Descriptions of tools, in the formats that the models' publishers document.

A record's tools are a JSON list of functions (name, description, parameters), each bare or wrapped as
{"type": "function", "function": {...}}. Each format is the one that its models were trained with.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

from modellink_rm.records import RecordError, check_unicode, json_in_text

Function = dict[str, Any]
NO_FUNCTIONS = "tools are not a JSON list of functions"


def listed_tools(tools: str) -> list[Any]:
    """What a record's description of tools lists, bare or wrapped; a single one as a list.

    Raises:
        RecordError: it is no JSON, or has a key twice.
    """
    value = json_in_text(tools, reason=NO_FUNCTIONS)
    return value if isinstance(value, list) else [value]


def functions_of(tools: str) -> list[Function]:
    """The functions in a record's description of tools, unwrapped.

    Raises:
        RecordError: it is not a JSON list of functions with names, or has a key twice.
    """
    functions = []
    for tool in listed_tools(tools):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecordError(NO_FUNCTIONS, f"{NO_FUNCTIONS}: each needs a name")
        functions.append(function)
    return functions


@functools.lru_cache(maxsize=256)  # a data set has few different tools and many records
def system_texts(tool_format: str, tools: str, system: str) -> tuple[str, ...]:
    """Texts of the system messages that hold `system`, which may be empty, and describe `tools`.

    Raises:
        RecordError: the tools are not a JSON list of functions, or hold half of a surrogate pair.
    """
    try:
        texts = SYSTEM_FORMATS[tool_format](functions_of(tools), system)
    except RecursionError:
        raise RecordError("tools are nested too deeply") from None
    for text in texts:
        check_unicode(text)
    return texts


@functools.lru_cache(maxsize=256)
def wrapped_json(tools: str) -> str:
    """The tools as one JSON list of wrapped functions, as mistral-common writes AVAILABLE_TOOLS.

    Raises:
        RecordError: the tools are not a JSON list of functions, or hold half of a surrogate pair.
    """
    try:
        text = _json([_wrapped(function) for function in functions_of(tools)])
    except RecursionError:
        raise RecordError("tools are nested too deeply") from None
    check_unicode(text)
    return text


def _chatglm3(functions: list[Function], system: str) -> tuple[str, ...]:
    """THUDM/chatglm3-6b, tokenization_chatglm.py, and the system message of its tools_using_demo."""
    system = (
        system or "Answer the following questions as best as you can. You have access to the following tools:"
    )
    return (f"{system}\n{_json(functions, indent=4)}",)


def _glm4(functions: list[Function], system: str) -> tuple[str, ...]:
    """THUDM/glm-4-9b-chat, chat_template: a separate system message for the tools, before the record's."""
    parts = [
        "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
        "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
    ]
    parts += [
        f"\n\n## {function['name']}\n\n{_json(function, indent=4)}"
        "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
        for function in functions
    ]
    return ("".join(parts), system) if system else ("".join(parts),)


def _qwen(functions: list[Function], system: str) -> tuple[str, ...]:
    """Qwen/Qwen2.5-7B-Instruct and Qwen/Qwen3-8B, chat_template."""
    before = f"{system}\n\n" if system else ""
    lines = "".join(f"\n{_json(_wrapped(function))}" for function in functions)
    return (
        f"{before}# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>{lines}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    )


def _llama3(functions: list[Function], system: str) -> tuple[str, ...]:
    """meta-llama/Llama-3.1-8B-Instruct, chat_template with the tools in the system message.

    Without its two lines of dates: a record has no date.
    """
    described = "".join(f"{_json(_wrapped(function), indent=4)}\n\n" for function in functions)
    return (
        "Environment: ipython\nYou have access to the following functions. "
        "To call a function, please respond with JSON for a function call."
        'Respond in the format {"name": function name, "parameters": '
        "dictionary of argument name and its value}."
        f"Do not use variables.\n\n{described}{system}",
    )


SYSTEM_FORMATS: dict[str, Callable[[list[Function], str], tuple[str, ...]]] = {
    "chatglm3": _chatglm3,
    "glm4": _glm4,
    "qwen": _qwen,
    "llama3": _llama3,
}


def _wrapped(function: Function) -> dict[str, Any]:
    return {"type": "function", "function": function}


def _json(value: Any, *, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
