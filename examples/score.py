"""Score answers by several rules: python examples/score.py [FILE]

FILE is anyone's prediction file (docs/formats.md lists the forms); without one, three answers that published rules read differently.
"""

import sys

import mmscale

if len(sys.argv) > 1:
    rows = mmscale.read_predictions(sys.argv[1])
else:
    rows = [
        mmscale.Prediction(question="How much is left?", response="$40 - $22 = $18.00", answer="18", language="en"),
        mmscale.Prediction(question="Wie viele?", response="Die Antwort ist 1.250.", answer="1250", language="de"),
        mmscale.Prediction(
            question="How many?", response="The answer is 7. It took 3 steps.", answer="7", language="en"
        ),
    ]
for rule in ("default", "last_number", "mcot", "proxy_gsm"):
    found = mmscale.score(rows, rule)
    print(f"{rule:12} {found.correct} of {found.n} right")
