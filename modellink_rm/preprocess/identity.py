"""What determines the rows of a run, by which --resume and --merge-shards know runs that belong together."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base.json_types import check_types
from modellink_rm.base.parts import file_identity
from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.handlers.custom import files_of_handler
from modellink_rm.preprocess.encode import RecordEncoder
from modellink_rm.records import input_files
from modellink_rm.templates.files import definition_of
from modellink_rm.version import __version__

# Flags that may differ between a run and its continuation, or between the shards of a run.
_NOT_OF_THE_ROWS = ("output_prefix", "workers", "log_interval", "strict", "resume", "rejects", "shard_index")


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """Everything that determines the rows of a run.

    Attributes:
        package_version: of the package that made them.
        input: as given.
        input_files: name, size and a hash of both ends of every file.
        handler_file: sha256, in hex, of the file that a handler of the user is in; None for others.
        handler_name: as given, as are `map_keys`, `seq_length` and `drop`.
        prompt_type: the template's name after --enable-thinking is applied, by which training finds it again.
        template_fingerprint: of the template's content.
        template_definition: the template itself, as in a file of --prompt-type-path.
        tokenizer: name of the directory or file; its path means nothing on another machine.
        tokenizer_fingerprint: of what determines its ids.
        keeps_rejects: whether refused records have their text.
        other_flags: the further flags that the rows depend on, by field name.
    """

    package_version: str
    input: tuple[str, ...]
    input_files: tuple[tuple[str, int, str], ...]
    handler_file: str | None
    handler_name: str
    map_keys: str | None
    seq_length: int | None
    drop: tuple[str, ...]
    prompt_type: str
    template_fingerprint: str
    template_definition: dict[str, Any]
    tokenizer: str
    tokenizer_fingerprint: str
    keeps_rejects: bool
    other_flags: Mapping[str, Any]

    def to_json(self) -> bytes:
        """One object of all fields and other flags."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        other_flags = values.pop("other_flags")
        return json.dumps({**other_flags, **values}, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "RunIdentity":
        """The identity that `to_json` wrote.

        Raises:
            KeyError: a field is missing, as in a file of another version.
            TypeError, ValueError: a field has another type, or holds what cannot be written.
        """
        values: dict[str, Any] = json.loads(data)
        json.dumps(values, ensure_ascii=False).encode()
        values.setdefault("handler_file", None)  # shards of before it was kept
        names = [field.name for field in dataclasses.fields(cls) if field.name != "other_flags"]
        own = {name: values.pop(name) for name in names}
        check_types(cls, own)
        for name in ("input", "input_files", "drop"):
            own[name] = tuple(tuple(value) if isinstance(value, list) else value for value in own[name])
        return cls(**own, other_flags=values)


def identity_of(config: PreprocessConfig, work: RecordEncoder) -> RunIdentity:
    """The identity of the run of these flags.

    Raises:
        OSError: an input file cannot be read.
    """
    named = {*_NOT_OF_THE_ROWS, *(field.name for field in dataclasses.fields(RunIdentity))}
    other_flags = {name: value for name, value in dataclasses.asdict(config).items() if name not in named}
    # As JSON gives it back, so that merged shards write the bytes of a single run's manifest.
    definition = json.loads(json.dumps(definition_of(work.template), sort_keys=True))
    return RunIdentity(
        package_version=__version__,
        input=config.input,
        input_files=tuple(file_identity(path) for path in input_files(config.input)),
        handler_file=_handler_file(config.handler_name),
        handler_name=config.handler_name,
        map_keys=config.map_keys,
        seq_length=config.seq_length,
        drop=config.drop,
        prompt_type=work.template.name,
        template_fingerprint=work.template.fingerprint,
        template_definition=definition,
        tokenizer=Path(work.tokenizer.name).resolve().name,
        tokenizer_fingerprint=work.tokenizer.fingerprint,
        keeps_rejects=config.rejects is not None,
        other_flags=other_flags,
    )


def _handler_file(name: str) -> str | None:
    """Sha256, in hex, of the file of FILE.py:CLASS; None for another name."""
    files = files_of_handler(name)
    return hashlib.sha256(files[0].read_bytes()).hexdigest() if files else None
