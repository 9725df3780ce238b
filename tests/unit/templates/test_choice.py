"""A template is found again from what a manifest or a contract keeps of it."""

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.templates.choice import kept_template
from modellink_rm.templates.files import definition_of
from modellink_rm.templates.table import TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_definition_gives_the_template_back(name: str) -> None:
    template = TEMPLATES[name]
    again = kept_template(name, definition_of(template), where="here")
    assert again == template
    assert again.fingerprint == template.fingerprint


def test_name_alone_is_of_the_table() -> None:
    assert kept_template("llama2", None, where="here") is TEMPLATES["llama2"]
    with pytest.raises(UserError, match="unknown --prompt-type 'lama2'; did you mean llama2"):
        kept_template("lama2", None, where="here")
