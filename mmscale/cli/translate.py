"""`mmscale data translate`: a data file with the translation of its questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmscale.cli import options


def translate(
    files: Annotated[list[Path], typer.Argument(help="JSONL, JSON, parquet, or CSV and TSV with a header")],
    translator: Annotated[str, typer.Option(help="folder or hub id of an NLLB, M2M100, T5, mT5 or umT5 model")],
    output: Annotated[Path, typer.Option(help="JSONL file: every row as it was, with its translation")],
    language: Annotated[
        str | None, typer.Option("--from", help="ISO code of the files' language; by default each row names its own")
    ] = None,
    target: Annotated[str, typer.Option("--to", help="ISO code of the language that is translated into")] = "en",
    field: Annotated[str, typer.Option(help="which field of a row is translated")] = "question",
    into: Annotated[
        str, typer.Option(help="field of its translation; the same as --field replaces it")
    ] = "translation",
    prefix: Annotated[
        str | None, typer.Option(help="of a T5: text before each question, 'translate {source} to {target}: '")
    ] = None,
    beams: Annotated[int, typer.Option(help="1 is greedy")] = 1,
    max_source_tokens: Annotated[int, typer.Option(help="longest question; a longer one loses its end")] = 512,
    max_new_tokens: Annotated[int, typer.Option(help="longest translation")] = 512,
    batch_size: Annotated[int, typer.Option(help="questions translated at once")] = 32,
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16, float16, float64")] = "float32",
    trust_remote_code: options.TrustRemoteCode = False,
    cache: Annotated[
        str | None, typer.Option(help="folder that keeps translations; by default the user's cache")
    ] = None,
) -> None:
    """Translate a field of every row; what is translated already is not translated again, also after a kill.

    Example: `mmscale data translate mgsm_sw.jsonl --from sw --translator facebook/nllb-200-distilled-600M --output mgsm_sw-en.jsonl`

    Several processes share the work, whatever starts them: `torchrun --nproc-per-node 8 --no-python mmscale data translate …`.
    """
    from mmscale.cli.devices import joined, started
    from mmscale.config.parallel import InterruptionConfig, ParallelConfig
    from mmscale.config.translation import TranslationConfig
    from mmscale.languages import language as known_language
    from mmscale.parallel.interruption import Interruption
    from mmscale.translation.files import Fields, translate_files
    from mmscale.translation.questions import Translations

    if language is not None:
        language = known_language(language).code
    config = options.checked(
        TranslationConfig,
        path=translator,
        target=target,
        prefix=prefix,
        beams=beams,
        max_source_tokens=max_source_tokens,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        cache=cache,
    )
    with joined(ParallelConfig(), started()) as context, Interruption(InterruptionConfig(), context) as stop:
        translate_files(files, output, Fields(field, into, language), Translations(config, context, stop))
        if context.is_first:
            print(output)
