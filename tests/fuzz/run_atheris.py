"""Search for inputs that break a parser, with Atheris (github.com/google/atheris), in an environment of its
own:

    python -m venv FUZZ && FUZZ/bin/pip install atheris && FUZZ/bin/pip install -e .
    nice FUZZ/bin/python tests/fuzz/run_atheris.py CORPUS -max_total_time=600 -max_len=4096

CORPUS is a folder; it is filled with valid inputs for every parser. A case that breaks something is
written to the working folder; move it to tests/vectors/fuzz once it is fixed.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["patronage_protocol"]):
    from parsers import check, seeds


def main() -> None:
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number:02d}").write_bytes(seed)
    atheris.Setup(sys.argv, lambda data: check(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
