"""The probe says yes to a model whose rows do not depend on their company, and no to any other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fakes import TableModel, random_table

from edgespec.decoding.exactness import splits_agree
from edgespec.decoding.protocols import Logits

TABLE = random_table(5, seed=1)


@pytest.mark.parametrize("context", [2, 16, 59, 60, 200])
def test_a_model_that_only_lone_rows_change_agrees(context: int) -> None:
    model = TableModel(TABLE, context_length=context, lone_row_noise=1.0)
    model.forward([1, 2])
    assert splits_agree(model)
    assert model.length == 0


@pytest.mark.parametrize("size", [2, 5, 9])
def test_a_model_with_another_kernel_for_some_number_of_rows_does_not(size: int) -> None:
    class Uneven(TableModel):
        def forward(self, ids: Sequence[int], rows: int | None = None) -> Logits:
            logits = super().forward(ids, rows)
            if len(ids) == size:
                logits[-1, 0] += 1e-6
            return logits

    model = Uneven(TABLE)
    assert not splits_agree(model)
    assert model.length == 0
