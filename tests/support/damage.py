"""Files as hypothesis damages them: cut, overwritten, or no such file at all."""

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with parts overwritten or left out and its end cut, or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=600))
    data = whole
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        patch, gone = draw(st.binary(max_size=12)), draw(st.integers(0, 40))
        data = data[:at] + patch + data[at + draw(st.sampled_from([len(patch), gone])) :]
    return data[: draw(st.sampled_from([len(data), draw(st.integers(0, len(data)))]))]
