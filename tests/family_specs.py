"""Any graph family with any parameters within their ranges, for property tests."""

from hypothesis import strategies as st

from candor.topologies.graphs.families import FAMILIES


@st.composite
def family_specs(draw: st.DrawFn) -> str:
    """A spec; whole numbers are small ones most of the time."""
    name = draw(st.sampled_from(sorted(FAMILIES)))
    options = []
    for parameter in FAMILIES[name].parameters:
        if parameter.kind is int:
            value = draw(st.integers(int(parameter.low), 12) | st.just(int(parameter.high)))
            options.append(f"{parameter.name}={value}")
        else:
            options.append(f"{parameter.name}={draw(st.floats(parameter.low, parameter.high))!r}")
    return name + (":" + ",".join(options) if options else "")
