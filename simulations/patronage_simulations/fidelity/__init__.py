"""How near coalition values by arithmetic come to those of coalitions that are trained (docs/fidelity.md).

Rooms: `subject` (whose pairs, under which terms), `store` (what was computed, by digest), `trainings`
(coalitions retrained), `factors` (arithmetic on LoRA factors), `rules` (from few trainings to every
coalition), `study` (everything in order of worth), `measures` and `findings` (errors of shares), `tables`,
`figure`, `run`.
"""
