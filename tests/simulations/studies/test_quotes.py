from patronage_protocol.policy import load_base_model
from patronage_simulations.studies.quotes import study


def test_a_student_costs_less_than_its_teacher_and_finds_some_of_the_best() -> None:
    base = load_base_model("tiny", device="cpu")
    text, states = study(base, sample=44, test=20, objective=4, seed=0)
    assert (text.student, states.student) == ("hashed n-grams", "states of tiny")
    assert text.spearman > 0.5
    assert text.student_seconds < text.teacher_seconds
    assert text.student_megabytes < text.teacher_megabytes
