"""Train the two stages of MindMerger for a few steps and score the result: python examples/train.py [FOLDER]

Steps, batches and rows of the quickstart are cut until it takes seconds, so Swahili is not learned; the quickstart shows the real run.
Started again with the same folder, it takes up what is finished.
"""

import sys

import mmscale

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/example"
overrides = [f"output_dir={folder}", "languages=[en,sw]", "evaluation.tasks={}", "proxy=null"]
for stage in ("mapping", "augmentation"):
    key = f"recipes.mindmerger.{stage}"
    overrides += [f"{key}.steps=2", f"{key}.packing.global_batch_size=8"]
    overrides += [f"{key}.data.0.languages=[en,sw]", f"{key}.data.0.limit_per_language=16"]

merged = mmscale.train_stage("configs/quickstart.yaml", "mindmerger.augmentation", overrides)
print("the trained model is in", merged)

problems = mmscale.load_records(
    mmscale.DataConfig(source="tinyworld", split="test", languages=("en", "sw"), limit_per_language=5)
)
rows = mmscale.answer(mmscale.load_model(merged), problems, generation=mmscale.GenerationConfig(max_new_tokens=64))
for language in ("en", "sw"):
    found = mmscale.score([row for row in rows if row.language == language])
    low, high = found.interval
    print(
        f"{language}: {found.correct} of {found.n} right, {found.accuracy:.0%} (95 % interval {low:.0%} to {high:.0%})"
    )
