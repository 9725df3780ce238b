"""What the templates of the table say of themselves."""

from modellink_rm.templates.table import TEMPLATES


def test_fingerprints_tell_contents_apart_and_not_names():
    assert TEMPLATES["mistral"].fingerprint == TEMPLATES["mixtral"].fingerprint
    different = {template.fingerprint for template in TEMPLATES.values()}
    aliases = {"mixtral", "deepseek2-lite", "internlm2"}
    assert len(different) == len(TEMPLATES) - len(aliases)


def test_eos_rules_in_words():
    rules = {name: TEMPLATES[name].eos_rule for name in ("llama2", "chatglm3", "chatml", "qwen3", "empty")}
    assert rules == {
        "llama2": "the tokenizer's EOS after every answer",
        "chatglm3": "the tokenizer's EOS after the final answer",
        "chatml": "<|im_end|> after every answer",
        "qwen3": "the text of the template ends every answer",
        "empty": "no EOS",
    }
