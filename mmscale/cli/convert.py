"""`mmscale convert`: checkpoints of other programs, and mappings between our format and the authors'."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmscale.cli import options


def convert(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            help="a mapping (mapping.safetensors, the authors' pytorch_model.bin, or the folder of one), a Hugging Face "
            "model folder, a LangBridge folder, or a DeepSpeed universal checkpoint"
        ),
    ],
    target: Annotated[
        Path, typer.Argument(help="of a mapping: *.safetensors (ours) or *.bin (the authors'); else a folder to make")
    ],
    base: Annotated[
        Path | None,
        typer.Option(help="folder of the LLM's configuration and tokenizer, where the source has none"),
    ] = None,
    encoder: Annotated[Path | None, typer.Option(help="the same of LangBridge's encoder")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="a model of ours with all that it consists of, its LLM and encoder copied")
    ] = False,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="of the weights written; else as they are")
    ] = None,
    to: Annotated[
        Literal["ctranslate2"] | None, typer.Option(help="ctranslate2: a translator, for mmscale corpus translate")
    ] = None,
) -> None:
    """Convert a checkpoint to safetensors that mmscale and transformers load; one shard in memory at a time.

    Example: `mmscale convert outputs/MindMerger/math/augmentation mapping.safetensors`

    Example: `mmscale convert output/global_step500_universal aligned-llama --base /models/Llama-2-7b-hf --dtype bfloat16`

    Example: `mmscale convert runs/quickstart/stages/mindmerger.augmentation/model merged-model --whole`

    Example: `mmscale convert facebook/nllb-200-distilled-600M nllb-600m --to ctranslate2`
    """
    from mmscale.conversion.convert import convert_folder, convert_mapping, convert_translator, copy_whole, is_model
    from mmscale.models.loading import DTYPES

    if to is not None:
        options.refuse_unread(context, "--to ctranslate2", never=frozenset({"base", "encoder", "whole"}))
        print(f"{target}: {convert_translator(str(source), target, dtype)}")
    elif whole:
        options.refuse_unread(context, "--whole", never=frozenset({"base", "encoder"}))
        print(f"{target}: {copy_whole(source, target, DTYPES[dtype] if dtype else None)}")
    elif is_model(source):
        print(f"{target}: {convert_folder(source, target, base, encoder, DTYPES[dtype] if dtype else None)}")
    else:
        options.refuse_unread(context, "a mapping", never=frozenset({"base", "encoder", "dtype"}))
        print(f"{target}: {convert_mapping(source, target)}")
