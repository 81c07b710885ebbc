"""Read a file of your own and see the tokens that a model would be trained on: python examples/own_data.py"""

import json
import tempfile
from pathlib import Path

import mmscale

ROWS = [
    {
        "frage": "Anna hat 3 Äpfel. Anna kauft 4 Äpfel. Wie viele Äpfel hat Anna jetzt?",
        "loesung": "3+4=7. The answer is 7.",
    },
    {
        "frage": "Ben hat 9 Eier. Ben verliert 2 Eier. Wie viele Eier hat Ben jetzt?",
        "loesung": "9-2=7. The answer is 7.",
    },
]

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "german.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8")
    columns = {"question": "frage", "rationale": "loesung"}
    data = mmscale.DataConfig(source="table", path=str(file), languages=("de",), options={"columns": columns})
    records = mmscale.load_records(data)

model = mmscale.load_model("tinyworld:llm", prompt="tinyworld_math")
for record, example in zip(records, mmscale.tokenize(model, records), strict=True):
    print(
        f"{record.origin.rsplit('/', 1)[-1]}: {len(example.prompt_ids)} prompt tokens, {len(example.target_ids)} to learn"
    )
