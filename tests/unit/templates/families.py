"""Chat templates of today's families, written out short, and what they make of two conversations.

The texts are those of the publishers' templates, apart from instructions and descriptions of tools, which are
shortened; the templates say no more than these texts need.
"""

import json

SYSTEM = "Be brief."
TOOL = {"name": "f", "description": "d é", "parameters": {"type": "object", "properties": {}}}
WRAPPED = {"type": "function", "function": TOOL}
JSON = json.dumps(WRAPPED, ensure_ascii=False)
JSON_4 = json.dumps(WRAPPED, ensure_ascii=False, indent=4)

_ALTERNATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
_LLAMA3_TURNS = """{%- for m in messages %}
    {%- if m.tool_calls %}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('single tool-calls') }}{% endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name }}
        {{- '", "parameters": ' + (call.arguments | tojson) + '}<|eot_id|>' }}
    {%- elif m.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + (m.content | tojson) + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + (m.content | trim) + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""
_LLAMA31 = (
    """{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}{% set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + ('Environment: ipython\\n' if tools else '') }}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' + DATE + '\\n\\n' + system + '<|eot_id|>' }}
{%- if tools %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nGiven the following functions:\\n\\n' }}
    {%- for tool in tools %}{{ tool | tojson(indent=4) + '\\n\\n' }}{% endfor %}
    {{- messages[0].content | trim + '<|eot_id|>' }}
    {%- set messages = messages[1:] %}
{%- endif %}
"""
    + _LLAMA3_TURNS
)
_QWEN_CALLS = """{%- for call in m.tool_calls or [] %}
    {{- '\\n' if m.content or not loop.first or FIRST }}
    {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
    {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}"""
_QWEN = """{%- set system = messages[0].content if messages[0].role == 'system' else DEFAULT %}
{%- if system or tools %}{{ '<|im_start|>system\\n' + system }}
    {%- if tools %}
        {{- ('\\n\\n' if system else '') + '# Tools\\n<tools>' }}
        {%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}
        {{- '\\n</tools>' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif m.role != 'system' %}
        {{- '<|im_start|>' + m.role + ('' if m.tool_calls and FIRST else '\\n') }}
        {{- (THOUGHT if m.role == 'assistant' and loop.last else '') + m.content }}
        CALLS
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""".replace("CALLS", _QWEN_CALLS)
_CHATML = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_GEMMA_TURNS = (
    "{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
    "{{ (first if loop.first else '') + (m.content | trim) + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
_SYSTEM_FIRST = (
    "{% set first = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}"
    "{% set messages = messages[1:] if first else messages %}"
)
_MISTRAL_V3 = """{%- set system = messages[0].content if messages[0].role == 'system' %}
{%- set messages = messages[1:] if system else messages %}
{%- set asked = messages | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- if tools and m == asked[-1] %}
            {{- '[AVAILABLE_TOOLS][' }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": ' + (tool.function | tojson) + '}' }}
            {%- endfor %}
            {{- '][/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + (system + '\\n\\n' if loop.last and system else '') + m.content + '[/INST]' }}
    {%- elif m.tool_calls is defined %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in m.tool_calls %}
            {%- if call.id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif m.role == 'tool' %}
        {%- if m.tool_call_id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}
        {{- '[TOOL_RESULTS]{"content": ' + m.content + ', "call_id": "' + m.tool_call_id }}
        {{- '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- m.content + eos_token }}
    {%- endif %}
{%- endfor %}"""
_GLM = """[gMASK]<sop>
{%- if tools %}
<|system|>
# 可用工具
{% for tool in tools %}

## {{ tool.function.name }}

{{ tool.function | tojson(indent=4, ensure_ascii=False) }}
    {%- endfor %}
{%- endif %}
{%- for m in messages if m.role in ('system', 'user', 'assistant', 'observation') %}
<|{{ m.role }}|>{{ m.metadata }}
{{ m.content }}
{%- endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}
"""
_GPT_OSS = """{{- '<|start|>system<|message|>Current date: ' + strftime_now("%Y-%m-%d") + '<|end|>' }}
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- if system or tools %}
    {{- '<|start|>developer<|message|>' + ('# Instructions\\n\\n' + system + '\\n\\n' if system else '') }}
    {%- for tool in tools or [] %}{{ 'type ' + tool.function.name + ' = ...' }}{% endfor %}
    {{- '<|end|>' }}
{%- endif %}
{%- set called = namespace(name=none) %}
{%- for m in messages if m.role != 'system' %}
    {%- if m.tool_calls %}
        {%- set call = m.tool_calls[0].function %}{% set called.name = call.name %}
        {%- if m.content %}
            {{- '<|start|>assistant<|channel|>analysis<|message|>' + m.content + '<|end|>' }}
        {%- endif %}
        {{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}
        {{- (call.arguments | tojson) + '<|call|>' }}
    {%- elif m.role == 'tool' %}
        {%- if not called.name %}{{ raise_exception('there was no call') }}{% endif %}
        {{- '<|start|>functions.' + called.name + ' to=assistant<|channel|>commentary<|message|>' }}
        {{- (m.content | tojson) + '<|end|>' }}
    {%- elif m.role == 'assistant' %}
        {{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}
        {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
    {%- else %}
        {{- '<|start|>user<|message|>' + m.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""

TEMPLATES = {
    "llama3.1": _LLAMA31.replace("DATE", "'26 Jul 2024'"),
    "llama3.3": _LLAMA31.replace("DATE", 'strftime_now("%d %b %Y")'),
    "qwen2.5": _QWEN.replace("DEFAULT", "'You are Qwen.'").replace("THOUGHT", "''").replace("FIRST", "true"),
    "qwen3": _QWEN.replace("DEFAULT", "''")
    .replace("THOUGHT", "'<think>\\n\\n</think>\\n\\n'")
    .replace("FIRST", "false"),
    "gemma2": "{{ bos_token }}" + _ALTERNATE + "{% set first = '' %}" + _GEMMA_TURNS,
    "gemma3": "{{ bos_token }}" + _SYSTEM_FIRST + _ALTERNATE + _GEMMA_TURNS,
    "mistral-nemo": _MISTRAL_V3,
    "mixtral": "{{ bos_token }}" + _ALTERNATE + "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
    "phi3.5": "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}"
    "{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
    "phi3": "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '<|user|>\\n' + m.content + '<|end|>\\n<|assistant|>\\n' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + '<|end|>\\n' }}{% endif %}{% endfor %}",
    "phi4": "{% for m in messages %}{% if m.role == 'system' %}"
    "{{ '<|im_start|>system<|im_sep|>' + m.content + '<|im_end|>' }}{% elif m.role == 'user' %}"
    "{{ '<|im_start|>user<|im_sep|>' + m.content + '<|im_end|><|im_start|>assistant<|im_sep|>' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}",
    "olmo2": "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content }}"
    "{{ eos_token if m.role == 'assistant' }}"
    "{{ '\\n' if not (m.role == 'assistant' and loop.last) }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    "glm4-0414": _GLM,
    "internlm2": _CHATML,
    "gpt-oss": _GPT_OSS,
    "deepseek2": "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ 'User: ' + m.content + '\\n\\n' }}{% elif m.role == 'assistant' %}"
    "{{ 'Assistant: ' + m.content + eos_token }}{% elif m.role == 'system' %}{{ m.content + '\\n\\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    # Opens an answer after every message, asked for or not.
    "llama3": "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + (m.content | trim) + '<|eot_id|>' }}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}",
}

CONTROL_TOKENS = [
    *("<s>", "</s>", "<|im_start|>", "<|im_sep|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "<|end|>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "[gMASK]", "<sop>"),
    *("<|start|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>"),
]


def _llama3(role: str, text: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"


def _chatml(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def _gemma(role: str, text: str) -> str:
    return f"<start_of_turn>{role}\n{text}<end_of_turn>\n"


_LLAMA31_DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
_LLAMA31_TALK = (
    f"<s>{_llama3('system', _LLAMA31_DATES + SYSTEM)}{_llama3('user', 'one?')}"
    f"{_llama3('assistant', 'First.')}{_llama3('user', 'two?')}{_llama3('assistant', 'Second.')}"
)
_QWEN_TALK = (
    f"{_chatml('system', SYSTEM)}{_chatml('user', 'one?')}{_chatml('assistant', 'First.')}"
    f"{_chatml('user', 'two?')}<|im_start|>assistant\n"
)
_GEMMA_TALK = f"{_gemma('model', 'First.')}{_gemma('user', 'two?')}<start_of_turn>model\nSecond.<end_of_turn>"
_PHI3_TALK = (
    "<|user|>\none?<|end|>\n<|assistant|>\nFirst.<|end|>\n"
    "<|user|>\ntwo?<|end|>\n<|assistant|>\nSecond.<|end|>"
)

# Of SYSTEM, the turns one?, First., two? and the answer Second., up to the answer's end; without the system
# message where the template refuses or ignores one (WITHOUT_SYSTEM).
TALKS = {
    "llama3": f"<s>{_llama3('system', SYSTEM)}{_llama3('user', 'one?')}{_llama3('assistant', 'First.')}"
    f"{_llama3('user', 'two?')}{_llama3('assistant', 'Second.')}",
    "llama3.1": _LLAMA31_TALK,
    "llama3.3": _LLAMA31_TALK,
    "qwen2.5": f"{_QWEN_TALK}Second.<|im_end|>",
    "qwen3": f"{_QWEN_TALK}<think>\n\n</think>\n\nSecond.<|im_end|>",
    "gemma2": f"<s>{_gemma('user', 'one?')}{_GEMMA_TALK}",
    "gemma3": f"<s>{_gemma('user', SYSTEM + chr(10) * 2 + 'one?')}{_GEMMA_TALK}",
    "mistral-nemo": "<s>[INST]one?[/INST]First.</s>[INST]two?[/INST]Second.</s>",
    "mixtral": "<s>[INST] one? [/INST]First.</s>[INST] two? [/INST]Second.</s>",
    "phi3.5": f"<|system|>\n{SYSTEM}<|end|>\n{_PHI3_TALK}\n</s>",
    "phi3": _PHI3_TALK,
    "phi4": f"<|im_start|>system<|im_sep|>{SYSTEM}<|im_end|><|im_start|>user<|im_sep|>one?<|im_end|>"
    "<|im_start|>assistant<|im_sep|>First.<|im_end|><|im_start|>user<|im_sep|>two?<|im_end|>"
    "<|im_start|>assistant<|im_sep|>Second.<|im_end|>",
    "olmo2": f"<s><|system|>\n{SYSTEM}\n<|user|>\none?\n<|assistant|>\nFirst.</s>\n"
    "<|user|>\ntwo?\n<|assistant|>\nSecond.</s>",
    "glm4-0414": f"[gMASK]<sop><|system|>\n{SYSTEM}<|user|>\none?<|assistant|>\nFirst."
    "<|user|>\ntwo?<|assistant|>\nSecond.",
    "internlm2": f"<s>{_QWEN_TALK}Second.<|im_end|>",
    "gpt-oss": "<|start|>system<|message|>Current date: 2024-07-26<|end|>"
    f"<|start|>developer<|message|># Instructions\n\n{SYSTEM}\n\n<|end|>"
    "<|start|>user<|message|>one?<|end|><|start|>assistant<|channel|>final<|message|>First.<|end|>"
    "<|start|>user<|message|>two?<|end|><|start|>assistant<|channel|>final<|message|>Second.<|return|>",
    "deepseek2": f"<s>{SYSTEM}\n\nUser: one?\n\nAssistant: First.</s>User: two?\n\nAssistant: Second.</s>",
}
WITHOUT_SYSTEM = ("gemma2", "mistral-nemo", "mixtral", "phi3")

_QWEN_CALLED = (
    f"{_chatml('user', 'one?')}"
    + _chatml("assistant", '<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call>')
    + _chatml("user", '<tool_response>\n{"r": 2}\n</tool_response>')
    + "<|im_start|>assistant\n"
)
_LLAMA31_CALLED = (
    f"<s>{_llama3('system', 'Environment: ipython' + chr(10) + _LLAMA31_DATES)}"
    + _llama3("user", f"Given the following functions:\n\n{JSON_4}\n\none?")
    + _llama3("assistant", '{"name": "f", "parameters": {"x": "é"}}')
    + _llama3("ipython", r'"{\"r\": 2}"')
    + _llama3("assistant", "Two.")
)
# Of the tool f, the question one?, a call of f with x = é, its result {"r": 2} and the answer Two.
CALLED = {
    "llama3.1": _LLAMA31_CALLED,
    "llama3.3": _LLAMA31_CALLED,
    "qwen2.5": f"<|im_start|>system\nYou are Qwen.\n\n# Tools\n<tools>\n{JSON}\n</tools><|im_end|>\n"
    f"{_QWEN_CALLED}Two.<|im_end|>",
    "qwen3": f"<|im_start|>system\n# Tools\n<tools>\n{JSON}\n</tools><|im_end|>\n"
    f"{_QWEN_CALLED}<think>\n\n</think>\n\nTwo.<|im_end|>",
    "mistral-nemo": f"<s>[AVAILABLE_TOOLS][{JSON}][/AVAILABLE_TOOLS][INST]one?[/INST]"
    '[TOOL_CALLS][{"name": "f", "arguments": {"x": "é"}, "id": "000000000"}]</s>'
    '[TOOL_RESULTS]{"content": {"r": 2}, "call_id": "000000000"}[/TOOL_RESULTS]Two.</s>',
    "glm4-0414": "[gMASK]<sop><|system|>\n# 可用工具\n\n## f\n\n"
    + json.dumps(TOOL, ensure_ascii=False, indent=4)
    + '<|user|>\none?<|assistant|>f\n{"x": "é"}<|observation|>\n{"r": 2}<|assistant|>\nTwo.',
    "gpt-oss": "<|start|>system<|message|>Current date: 2024-07-26<|end|>"
    "<|start|>developer<|message|>type f = ...<|end|><|start|>user<|message|>one?<|end|>"
    '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"x": "é"}<|call|>'
    r'<|start|>functions.f to=assistant<|channel|>commentary<|message|>"{\"r\": 2}"<|end|>'
    "<|start|>assistant<|channel|>final<|message|>Two.<|return|>",
}
