"""The expressions of a manifest, each compiled before it is needed."""

from __future__ import annotations

from collections.abc import Iterator

from clinvk.backend.manifest import Manifest, manifest_error
from clinvk.backend.reading.variants import for_change, for_screen
from clinvk.text.typed import format_path


def check_expressions(manifest: Manifest) -> None:
    """Compile every rule, so that an error is found here and not in the middle of a run."""
    for_screen(manifest)
    for i, change in enumerate(manifest.by_version):
        for_change(manifest, change, i)
    from clinvk.backend.expression import (  # jmespath: see design note
        ExpressionError,
        compile_expression,
    )

    for place, text in _expressions(manifest):
        try:
            compile_expression(text)
        except ExpressionError as error:
            raise manifest_error(manifest, f"{format_path(place)}: {error}") from error


def _expressions(manifest: Manifest) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for place, rule in manifest.all_rules():
        for key in ("when", "each"):
            if text := getattr(rule, key):
                yield (*place, key), text
        for key, text in rule.set.items():
            yield (*place, "set", key), text
