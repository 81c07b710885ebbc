"""Mapping checkpoints: the authors' two generations read, anything partial refused by name, nothing unpickled."""

from __future__ import annotations

import os

import pytest
import torch

from mmscale.cli.main import main
from mmscale.errors import UserError
from mmscale.models.connectors import connector, kind_of, mlp
from mmscale.models.connectors.mlp import MLPConnector


def mapping() -> MLPConnector:
    torch.manual_seed(0)
    made = MLPConnector(6, 10)
    torch.nn.init.normal_(made.end_boundary)
    return made


def equal(a: MLPConnector, b: MLPConnector, dtype=torch.float32) -> bool:
    return all(torch.equal(x.to(dtype), b.state_dict()[k].to(dtype)) for k, x in a.state_dict().items())


def test_names_and_shapes_are_the_published_five():
    shapes = {key: tuple(value.shape) for key, value in MLPConnector(2048, 4096).state_dict().items()}
    assert shapes == {
        "end_boundary": (1, 1, 4096),
        "mlp.linear1.weight": (4096, 2048),
        "mlp.linear1.bias": (4096,),
        "mlp.linear2.weight": (4096, 4096),
        "mlp.linear2.bias": (4096,),
    }
    assert sum(p.numel() for p in MLPConnector(2048, 4096).parameters()) == 25_178_112
    assert not MLPConnector(4, 4).end_boundary.any(), "zero-initialised"


def test_ours_is_exact_and_the_authors_format_is_bfloat16(tmp_path):
    made = mapping()
    mlp.CONNECTOR.write(made, tmp_path / "mapping.safetensors")
    assert equal(made, mlp.CONNECTOR.read(tmp_path))
    mlp.write_authors_format(made, tmp_path / "pytorch_model.bin")
    raw = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert set(raw) == {"model_state_dict"} and {v.dtype for v in raw["model_state_dict"].values()} == {torch.bfloat16}
    assert not (tmp_path / "pytorch_model.bin").read_bytes().startswith(b"PK"), "legacy, no zip"
    assert equal(made, mlp.CONNECTOR.read(tmp_path / "pytorch_model.bin"), torch.bfloat16)


@pytest.mark.parametrize("prefix", ["linear.linear", "module.mlp.linear", "mapping.mlp.linear"])
def test_old_key_names_are_remapped(tmp_path, prefix):
    state = {k.replace("mlp.linear", prefix): v for k, v in mapping().state_dict().items()}
    torch.save({"model_state_dict": state}, tmp_path / "x.bin")
    assert equal(mapping(), mlp.CONNECTOR.read(tmp_path / "x.bin"))


@pytest.mark.parametrize("missing", mlp.KEYS)
def test_a_partial_checkpoint_is_refused_by_name(tmp_path, missing):
    state = {k: v for k, v in mapping().state_dict().items() if k != missing}
    torch.save({"model_state_dict": state}, tmp_path / "x.bin")
    with pytest.raises(UserError, match=f"has no tensor {missing}"):
        mlp.CONNECTOR.read(tmp_path / "x.bin")


def test_an_extra_tensor_and_wrong_shapes_are_refused(tmp_path):
    torch.save({**mapping().state_dict(), "gate": torch.zeros(1)}, tmp_path / "x.bin")
    with pytest.raises(UserError, match="unknown tensor gate"):
        mlp.CONNECTOR.read(tmp_path / "x.bin")
    torch.save({**mapping().state_dict(), "end_boundary": torch.zeros(1, 1, 3)}, tmp_path / "y.bin")
    with pytest.raises(UserError, match=r"y.bin: .*end_boundary"):
        mlp.CONNECTOR.read(tmp_path / "y.bin")


@pytest.mark.parametrize("name", ["mlp", "linear", "mlp3"])
def test_every_connector_is_its_layers_with_relu_between_them_written_into_the_row(tmp_path, name):
    """Values and gradients against the definition in float64; its file reads back, and as no other connector."""
    kind = connector(name)
    torch.manual_seed(0)
    made = kind.build(6, 10).double()
    torch.nn.init.normal_(made.end_boundary)
    states, tokens = torch.randn(5, 6, dtype=torch.float64), torch.randn(3, 10, dtype=torch.float64)
    rows = [torch.tensor(numbers) for numbers in ([0, 7, 8], [1, 2, 4, 5, 6], [3, 9])]
    merged = made(states, tokens, *rows, [2, 3])
    linears = [layer for layer in made.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(linears) == {"mlp": 2, "linear": 1, "mlp3": 3}[name]
    connected = states
    for number, layer in enumerate(linears):
        connected = (connected if number == 0 else connected.relu()) @ layer.weight.T + layer.bias
    wanted = torch.zeros(10, 10, dtype=torch.float64)
    wanted[rows[0]], wanted[rows[1]], wanted[rows[2]] = tokens, connected, made.end_boundary.reshape(-1)
    torch.testing.assert_close(merged, wanted)
    weights = torch.randn_like(merged)
    ours = torch.autograd.grad((merged * weights).sum(), list(made.parameters()))
    theirs = torch.autograd.grad((wanted * weights).sum(), list(made.parameters()))
    torch.testing.assert_close(ours, theirs)

    kind.write(made.float(), tmp_path / kind.file)
    assert equal(made, kind.read(tmp_path))
    assert kind_of(tmp_path).name == kind_of(tmp_path / kind.file).name == name, "the file itself says which it is"
    linears[0].weight.data[2] = 0
    kind.write(made, tmp_path / kind.file)
    with pytest.raises(UserError, match="rows of nothing but zeros"):
        kind.read(tmp_path)
    for other in {"mlp", "linear", "mlp3"} - {name}:
        with pytest.raises(UserError):
            connector(other).read(tmp_path / kind.file)


class Dangerous:
    def __reduce__(self):
        return (os.system, ("touch hacked",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": Dangerous()}, tmp_path / "x.bin")
    with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
        mlp.CONNECTOR.read(tmp_path / "x.bin")
    assert not (tmp_path / "hacked").exists()


def test_convert_goes_both_ways(tmp_path, capsys):
    mlp.write_authors_format(mapping(), tmp_path / "pytorch_model.bin")
    assert main(["convert", str(tmp_path), str(tmp_path / "m.safetensors")]) == 0
    assert main(["convert", str(tmp_path / "m.safetensors"), str(tmp_path / "again.bin")]) == 0
    assert "6 -> 12 -> 10" in capsys.readouterr().out
    assert equal(mapping(), mlp.CONNECTOR.read(tmp_path / "again.bin"), torch.bfloat16)
