"""What the tests of wrong input share; the fixture `world` is everything right."""

import pytest

from tools import TINY

NAN, INF = float("nan"), float("inf")


def assert_raises(call, kinds, message):
    """`kinds` are built-in exceptions; the message is made for a reader."""
    with pytest.raises(kinds, match=f"(?is){message}") as caught:
        call()
    kind = type(caught.value)
    assert kind.__mro__[-2] is BaseException and issubclass(kind, Exception), kind
    assert kind.__name__ != "PanicException" and "panicked" not in str(caught.value)
    assert "Exception raised from" not in str(caught.value), "libtorch's backtrace helps no reader"


def unet(world, **changes):
    return world.rd.DiffusionUNet(**{**TINY, **changes})
