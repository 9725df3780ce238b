"""The forms of the templates, written out by hand.

A str is text that is tokenised on its own and `T` is one token by name. The pieces follow the table that
ModelLink's users know; they are not made from the code's own table.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class T:
    """One token by its name; BOS and EOS are those of the tokenizer."""

    name: str


BOS, EOS = T("<s>"), T("</s>")
IM_START, IM_END = T("<|im_start|>"), T("<|im_end|>")
GMASK, SOP = T("[gMASK]"), T("sop")
SYSTEM, USER, ASSISTANT, OBSERVATION = (
    T("<|system|>"),
    T("<|user|>"),
    T("<|assistant|>"),
    T("<|observation|>"),
)
HEADER, END_HEADER, EOT = T("<|start_header_id|>"), T("<|end_header_id|>"), T("<|eot_id|>")
TURN, END_TURN = T("<start_of_turn>"), T("<end_of_turn>")

CHATGLM3_SYSTEM = (
    "You are ChatGLM3, a large language model trained by Zhipu.AI. "
    "Follow the user's instructions carefully. Respond using markdown."
)
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)
GERMAN_SYSTEM = "Du bist ein freundlicher und hilfsbereiter KI-Assistent."


def chatml_turn(role, text):
    return [IM_START, f"{role}\n{text}", IM_END, "\n", IM_START, "assistant\n"]


def chatml_system(text):
    return [IM_START, f"system\n{text}", IM_END, "\n"]


def llama3_turn(text, role="user"):
    return [HEADER, role, END_HEADER, f"\n\n{text}", EOT, HEADER, "assistant", END_HEADER, "\n\n"]


def gemma_turn(role, text):
    return [TURN, f"{role}\n{text}", END_TURN, "\n", TURN, "model\n"]


# name: (the prompt "q", the response "a")
ONE_TURN = {
    "default": (["Human: q\nAssistant:"], ["a", EOS]),
    "empty": (["q"], ["a"]),
    "chatglm2": ([GMASK, SOP, "[Round 0]\n\n问：q\n\n答："], ["a", EOS]),
    "chatglm3": ([GMASK, SOP, USER, "\n", "q", ASSISTANT], ["\n", "a", EOS]),
    "chatglm3_system": (
        [GMASK, SOP, SYSTEM, "\n", CHATGLM3_SYSTEM, USER, "\n", "q", ASSISTANT],
        ["\n", "a", EOS],
    ),
    "glm4": ([GMASK, T("<sop>"), USER, "\nq", ASSISTANT], ["\na", EOS]),
    "chatml": (chatml_turn("user", "q"), ["a", IM_END]),
    "chatml_de": (chatml_system(GERMAN_SYSTEM) + chatml_turn("user", "q"), ["a", IM_END]),
    "qwen": (chatml_system("You are a helpful assistant.") + chatml_turn("user", "q"), ["a", IM_END]),
    "qwen3": (chatml_turn("user", "q"), ["a", IM_END, "\n"]),
    "qwen3_thinking": (chatml_turn("user", "q"), ["<think>\n\n</think>\n\n", "a", IM_END, "\n"]),
    "qwen3_no_thinking": (
        [*chatml_turn("user", "q"), "<think>\n\n</think>\n\n"],
        ["a", IM_END, "\n"],
    ),
    "intern2": ([BOS, *chatml_turn("user", "q")], ["a", IM_END, "\n"]),
    "internlm2": ([BOS, *chatml_turn("user", "q")], ["a", IM_END, "\n"]),
    "llama3": ([BOS, *llama3_turn("q")], ["a", EOT]),
    "llama2": ([BOS, "[INST] q [/INST]"], ["a", EOS]),
    "mistral": ([BOS, "[INST] q [/INST]"], ["a", EOS]),
    "mixtral": ([BOS, "[INST] q [/INST]"], ["a", EOS]),
    "mistral_v1": ([BOS, "[INST] q [/INST]"], ["a", EOS]),
    "gemma": ([BOS, *gemma_turn("user", "q")], ["a", EOS]),
    "gemma2": ([BOS, *gemma_turn("user", "q")], ["a", END_TURN, "\n"]),
    "gemma3": ([BOS, *gemma_turn("user", "q")], ["a", END_TURN, "\n"]),
    "alpaca": ([ALPACA_SYSTEM, "### Instruction:\nq\n\n### Response:\n"], ["a", EOS]),
    "deepseek2": ([BOS, "User: q\n\nAssistant:"], ["a", EOS]),
    "deepseek2-lite": ([BOS, "User: q\n\nAssistant:"], ["a", EOS]),
    "deepseek3": ([BOS, T("<｜User｜>"), "q", T("<｜Assistant｜>")], ["a", EOS]),
    "cpm": ([BOS, T("<用户>"), "q", T("<AI>")], ["a", EOS]),
    "baichuan2": ([T("<reserved_106>"), "q", T("<reserved_107>")], ["a", EOS]),
}

# name: the prompt of system "s", turns "q1", "a1", "q2"
MULTI_TURN = {
    "default": ["s\n", "Human: q1\nAssistant:", "a1", EOS, "\n", "Human: q2\nAssistant:"],
    "empty": ["s", "q1", "a1", "q2"],
    "chatglm2": [
        *(GMASK, SOP, "s", "[Round 0]\n\n问：q1\n\n答：", "a1"),
        *("\n\n", "[Round 1]\n\n问：q2\n\n答："),
    ],
    "chatglm3": [
        *(GMASK, SOP, SYSTEM, "\n", "s", USER, "\n", "q1", ASSISTANT, "\n", "a1"),
        *(USER, "\n", "q2", ASSISTANT),
    ],
    "chatglm3_system": [
        *(GMASK, SOP, SYSTEM, "\n", "s", USER, "\n", "q1", ASSISTANT, "\n", "a1"),
        *(USER, "\n", "q2", ASSISTANT),
    ],
    "glm4": [
        *(GMASK, T("<sop>"), SYSTEM, "\ns", USER, "\nq1", ASSISTANT, "\na1"),
        *(USER, "\nq2", ASSISTANT),
    ],
    "chatml": [
        *chatml_system("s"),
        *chatml_turn("user", "q1"),
        *("a1", IM_END, "\n"),
        *chatml_turn("user", "q2"),
    ],
    "qwen3": [
        *chatml_system("s"),
        *chatml_turn("user", "q1"),
        *("a1", IM_END, "\n"),
        *chatml_turn("user", "q2"),
    ],
    "intern2": [
        BOS,
        *chatml_system("s"),
        *chatml_turn("user", "q1"),
        *("a1", IM_END, "\n"),
        *chatml_turn("user", "q2"),
    ],
    "llama3": [
        *(BOS, HEADER, "system", END_HEADER, "\n\ns", EOT),
        *llama3_turn("q1"),
        *("a1", EOT),
        *llama3_turn("q2"),
    ],
    "llama2": [
        *(BOS, "[INST] <<SYS>>\ns\n<</SYS>>\n\nq1 [/INST]", "a1", EOS),
        *(BOS, "[INST] q2 [/INST]"),
    ],
    "mistral": [BOS, "s", "[INST] q1 [/INST]", "a1", EOS, "[INST] q2 [/INST]"],
    "mistral_v1": [BOS, "[INST] s\n\nq1 [/INST]", "a1", EOS, "[INST] q2 [/INST]"],
    "gemma3": [
        BOS,
        *gemma_turn("user", "s\n\nq1"),
        *("a1", END_TURN, "\n"),
        *gemma_turn("user", "q2"),
    ],
    "gemma": [
        *(BOS, "s"),
        *gemma_turn("user", "q1"),
        *("a1", END_TURN, "\n"),
        *gemma_turn("user", "q2"),
    ],
    "alpaca": [
        *("s", "### Instruction:\nq1\n\n### Response:\n", "a1", EOS),
        *("\n\n", "### Instruction:\nq2\n\n### Response:\n"),
    ],
    "deepseek2": [BOS, "s\n\n", "User: q1\n\nAssistant:", "a1", EOS, "User: q2\n\nAssistant:"],
    "deepseek3": [
        *(BOS, "s", T("<｜User｜>"), "q1", T("<｜Assistant｜>"), "a1", EOS),
        *(T("<｜User｜>"), "q2", T("<｜Assistant｜>")),
    ],
    "cpm": [BOS, "s", T("<用户>"), "q1", T("<AI>"), "a1", EOS, T("<用户>"), "q2", T("<AI>")],
    "baichuan2": [
        *("s", T("<reserved_106>"), "q1", T("<reserved_107>"), "a1"),
        *(T("<reserved_106>"), "q2", T("<reserved_107>")),
    ],
}
MULTI_TURN["chatml_de"] = MULTI_TURN["qwen"] = MULTI_TURN["chatml"]
MULTI_TURN["qwen3_thinking"] = MULTI_TURN["qwen3"]
MULTI_TURN["qwen3_no_thinking"] = [*MULTI_TURN["qwen3"], "<think>\n\n</think>\n\n"]
MULTI_TURN["internlm2"] = MULTI_TURN["intern2"]
MULTI_TURN["mixtral"] = MULTI_TURN["mistral"]
MULTI_TURN["deepseek2-lite"] = MULTI_TURN["deepseek2"]

# name: the observation "o" as the only turn
OBSERVATIONS = {
    "chatglm3": [GMASK, SOP, OBSERVATION, "\n", "o", ASSISTANT],
    "glm4": [GMASK, T("<sop>"), OBSERVATION, "\no", ASSISTANT],
    "chatml": chatml_turn("tool", "o"),
    "qwen": chatml_system("You are a helpful assistant.")
    + chatml_turn("user", "<tool_response>\no\n</tool_response>"),
    "qwen3": chatml_turn("user", "<tool_response>\no\n</tool_response>"),
    "gemma": [BOS, *gemma_turn("tool", "o")],
    "llama3": [BOS, *llama3_turn("o", role="ipython")],
    "llama2": [BOS, "[INST] o [/INST]"],
}
