import dataclasses

import pytest

import hjax


def test_a_description_prints_what_it_has_and_its_parts_below():
    part = hjax.nn.Description("Part", "u_t = 0", "none", 0.0, "none", "two", "exact")
    whole = hjax.nn.Description("Whole", "none", "none", None, "t", "rows", "structural", (part,))
    lines = str(whole).splitlines()
    assert lines[0] == "Whole (structural)"
    assert not any(line.startswith("  eps ") for line in lines)
    assert "  Part (exact)" in lines
    assert "    eps         0" in lines


def test_a_description_cannot_be_changed():
    part = hjax.nn.Description("Part", "u_t = 0", "none", 0.0, "none", "two", "exact")
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.status = "open"  # pyright: ignore[reportAttributeAccessIssue]
