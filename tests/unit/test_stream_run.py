import pytest

from feature_repo.errors import StateLost, StreamStopped
from streaming.run import raise_why


def test_what_ends_the_stream_is_one_clear_error() -> None:
    lost = StateLost(1, 100)
    with pytest.raises(StateLost):
        raise_why(lost, RuntimeError("what Spark makes of it"))
    with pytest.raises(StreamStopped, match=r"^Spark ended the stream: File commits does not exist$") as caught:
        raise_why(None, RuntimeError("File commits does not exist\n=== Streaming Query ===\nIdentifier: 7"))
    assert caught.value.remedy
    raise_why(None, None)
