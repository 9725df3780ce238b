"""The packages that every run needs: whether they can be imported, and have versions that work together."""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

from modellink_rm.doctor.findings import Problem

_OURS = "modellink-rm"
_AGAIN = "python -m pip install --force-reinstall {name}, or make install in a new environment"
# What is imported to try each; what the others need comes first.
_MODULES = {
    "numpy": "numpy",
    "packaging": "packaging",
    "psutil": "psutil",
    "orjson": "orjson",
    "pyyaml": "yaml",
    "jinja2": "jinja2",
    "tqdm": "tqdm",
    "tokenizers": "tokenizers",
    "sentencepiece": "sentencepiece",
    "safetensors": "safetensors",
    "torch": "torch",
    "transformers": "transformers",
    "megatron-core": "megatron.core.transformer",
}


def broken_packages() -> list[Problem]:
    """The packages that cannot be imported here; one for which another one is missing is left out."""
    problems: list[Problem] = []
    broken: set[str] = set()
    reasons: set[str] = set()
    for name, module in _MODULES.items():
        try:
            if name == "megatron-core":
                import_module("modellink_rm.base.engine_import")  # before any of its files
            import_module(module)
        except (Exception, SystemExit) as error:  # foreign code, which may raise anything
            cause = (error.name if isinstance(error, ImportError) else None) or ""
            # megatron-core fails as the torch that it imports does, in the same words.
            if cause.partition(".")[0] not in broken and str(error) not in reasons:
                problems.append(Problem(what=_what(name, error), remedy=_AGAIN.format(name=name)))
            broken.add(module.partition(".")[0])
            reasons.add(str(error))
    return problems


def _what(name: str, error: BaseException) -> str:
    if installed_version(name) is None:
        return f"the package {name} is not installed"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"the package {name} cannot be imported: {reason}"


def wrong_versions() -> Iterator[Problem]:
    """The installed packages whose versions this one does not work with, as pyproject.toml says."""
    from packaging.requirements import Requirement  # which may be what is broken
    from packaging.version import Version

    try:
        needed = [Requirement(text) for text in requires(_OURS) or ()]
    except PackageNotFoundError:  # the source alone, on PYTHONPATH
        return
    for one in needed:
        found = installed_version(one.name)
        if found is None or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        # A vendor's build before a release, 2.9.0a0+nv, is taken for the release.
        if not one.specifier.contains(Version(found).base_version):
            wanted = f"{one.name}{one.specifier}"
            yield Problem(
                what=f"{one.name} {found} is installed, and {wanted} is needed",
                remedy=f"python -m pip install '{wanted}'",
            )


def installed_version(package: str) -> str | None:
    """The version of an installed package; None if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
