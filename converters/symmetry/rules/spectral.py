"""Fourier transforms and complex numbers: each frequency is told from the others."""

from __future__ import annotations

from converters.symmetry.call import Call
from converters.symmetry.rules.common import axes, entrywise, table
from converters.symmetry.values import Value


@entrywise
def transform(call: Call) -> Value:
    """Transform along axes, whose order counts."""
    value = call.value("self")
    places = axes(call["dim"], value.rank)
    dims = call.resample(value.dims, places, "is Fourier transformed")
    return call.enter("transform", [value], value.like(dims))


@entrywise
def to_real(call: Call) -> Value:
    """Write complex numbers as pairs."""
    value = call.value("self")
    return value.like([*value.dims, call.fixed(2, "counts real and imaginary parts")])


@entrywise
def to_complex(call: Call) -> Value:
    """Read pairs as complex numbers."""
    value = call.value("self")
    call.fix(value.dims[-1:], "counts real and imaginary parts", natural=True)
    return value.like(value.dims[:-1])


_NAMES = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")

SPECTRAL = {
    **table(transform, *(f"fft_{name}{kind}" for name in _NAMES for kind in ("", "2", "n")),
          "_fft_c2c", "_fft_c2r", "_fft_r2c"),
    **table(to_real, "view_as_real"),
    **table(to_complex, "view_as_complex"),
}
