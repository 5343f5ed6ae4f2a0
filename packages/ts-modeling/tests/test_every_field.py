"""No field of a configuration is passed over in silence: whatever value each one takes, logits equal transformers', or
the model is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig
from ts_modeling import ModelingError, load_model
from ts_modeling.testing import MODELS, assert_close, oracle_logits, run_whole, tiny_config, write_tiny

PROMPT = list(range(3, 40))
OTHERS = {"architectures", "model_type", "vocab_size", "num_hidden_layers", "max_position_embeddings"}
"""Fields that decide what is compared, not what it gives."""
UNREAD = {"rope_parameters", "transformers_version", "dtype", "id2label", "label2id"}


def fields(model: str) -> dict[str, Any]:
    """Those of transformers' class with the values that the tiny configuration, or the class, gives them."""
    raw = tiny_config(model)
    known = AutoConfig.for_model(**json.loads(json.dumps({k: v for k, v in raw.items() if k != "architectures"})))
    return {name: value for name, value in {**known.to_dict(), **raw}.items() if name not in OTHERS | UNREAD}


def mutations(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int | float):
        return [value * 2, 1]
    if isinstance(value, str):
        return ["gelu"]
    if isinstance(value, list):
        return [value[::-1], value[:1] * len(value) if value else [1]]
    return [True, 2] if value is None else []


@pytest.mark.nightly
@pytest.mark.parametrize("model", MODELS)
def test_every_field_is_heeded_or_refused(model: str, tmp_path: Path) -> None:
    wrong, compared = [], 0
    for name, value in fields(model).items():
        for number, other in enumerate(mutations(value)):
            raw, folder = tiny_config(model, **{name: other}), tmp_path / f"{name}-{number}"
            try:
                expected = oracle_logits(write_tiny(folder, raw), PROMPT)
            except Exception:  # what transformers cannot run is nothing to compare with
                continue
            try:
                assert_close(run_whole(load_model(folder, dtype="float32"), PROMPT), expected)
                compared += 1
            except ModelingError:
                continue
            except AssertionError as error:
                wrong.append(f"{name} = {other!r}: {error}")
    assert not wrong
    assert compared > 10
