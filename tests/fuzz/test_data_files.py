"""Damaged data files: each row is a record, a bad row or a row left out, and the three add up to the file; whatever cannot
be read whole is one sentence."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmscale.config.data import DataConfig
from mmscale.data.loading import load_records
from mmscale.errors import UserError
from mmscale.languages import MGSM_LANGUAGES
from tests.data.published import FORMS, Form
from tests.fuzz.mutations import JSON_VALUES, bounded, damaged


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each form; its files are written anew for every example."""
    return {form.name: tmp_path_factory.mktemp("data") for form in FORMS}


def rows_of(raw: bytes, name: str, source: str) -> int | None:
    """Rows of a file, counted without our readers; None where a row may be several lines."""
    text = raw.decode("utf-8-sig")
    lines = text.split("\n")[: -1 if text.endswith("\n") or not text else None]
    if text.lstrip().startswith('{"data"'):
        return None
    if name.endswith(".csv"):
        return len(lines) - 1 if '"' not in text else None
    if name.endswith(".json") and text.lstrip().startswith("["):
        return len(json.loads(text))
    named = {"label", "gold_label"} & set("".join(lines[:1]).split("\t"))
    headed = name.endswith(".tsv") and (named or source.startswith("afri"))
    return len(lines) - 1 if headed else len(lines)


@bounded(1000)
@given(data=st.data())
def test_every_row_of_a_damaged_file_is_accounted_for(folders, data):
    form: Form = data.draw(st.sampled_from(FORMS))
    folder = folders[form.name]
    path = form.write(folder)
    name = data.draw(st.sampled_from(sorted(form.files)))
    raw = data.draw(damaged(form.files[name], JSON_VALUES))
    (folder / name).write_bytes(raw)
    config = DataConfig(
        source=form.source,
        path=str(path),
        languages=tuple(form.expected),
        split=form.split,
        options=form.options,
        max_bad_share=1,
    )
    for code in form.expected:
        try:
            records, account = load_records(config, MGSM_LANGUAGES, only=code)
        except UserError as error:
            assert str(error) and "\n" not in str(error).strip()
            continue
        count = account.counts[code]
        assert count.rows == count.read + count.bad + sum(count.left_out.values())
        assert count.read == len(records) and {record.language for record in records} == {code}
        assert len({record.origin for record in records}) == len(records)
        assert all(told.startswith(str(folder)) for told in account.bad)
        if len(form.files) == 1 and (rows := rows_of(raw, name, form.source)) is not None:
            assert count.rows == rows


def test_the_forms_undamaged_have_as_many_rows_as_the_counter_says(tmp_path):
    """The counter of the test above agrees with the readers where nothing is damaged."""
    told: Counter[str] = Counter()
    for form in FORMS:
        if len(form.files) > 1:
            continue
        ((name, text),) = form.files.items()
        config = DataConfig(
            source=form.source, path=str(form.write(tmp_path / form.name)), split=form.split, options=form.options
        )
        for code in form.expected:
            account = load_records(config.model_copy(update={"languages": tuple(form.expected)}), (), only=code)[1]
            told[form.name] += 1
            assert rows_of(text.encode(), name, form.source) in (account.counts[code].rows, None), form.name
    assert len(told) > 20
