from __future__ import annotations

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as slow

from lightning_adapt.views.checksums import masked_crc32c


@pytest.mark.parametrize("size", [*range(0, 300), 4096, 10_007])
def test_it_is_the_checksum_of_tensorboard(size: int):
    data = np.random.default_rng(size).bytes(size)
    assert masked_crc32c(data) == slow(data)
