"""The study of pools: more candidates, less error and less bias."""

from patronage_simulations.studies.pools import lines


def test_error_and_bias_fall_with_the_number_of_candidates() -> None:
    few, *_, many = lines()
    assert many.rms_error < 0.2 * few.rms_error
    assert many.bias < 0.2 * few.bias
    assert few.effective < few.candidates < many.effective < many.candidates
